"""The one error that a user can fix."""


class VRXError(Exception):
    """An error that a user can fix: the message names the bad value and the remedy."""
