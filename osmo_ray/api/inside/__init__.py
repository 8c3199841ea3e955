"""The look inside running tasks: keys of sessions, and the websockets that use them."""
