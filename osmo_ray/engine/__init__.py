"""The pure state machine of workflows: `decide(workflow, event, now) -> Decision`."""
