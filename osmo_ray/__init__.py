"""osmo-ray: workflows for robotics and AI teams, from a laptop to many clusters, on Ray."""

__version__ = "0.1.0"
