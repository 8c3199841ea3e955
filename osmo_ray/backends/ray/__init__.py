"""Tasks on the nodes of a Ray cluster: one agent actor per node, Ray jobs for Ray programs."""
