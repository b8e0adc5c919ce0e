"""The errors a user can act on. Stages print them as one line and exit with code 1."""


class UserError(ValueError):
    """Something the user can mend. The message says what, where, the limit and the remedy."""


class ParamsError(UserError):
    """``params.yaml`` is wrong: edit the key that the message names."""


class InputError(UserError):
    """A file that the user supplies is missing, broken or empty."""


class ArtifactError(UserError):
    """A pipeline file does not fit the stage that reads it: rerun the stage that makes it."""


class MissingKeyError(ArtifactError, KeyError):
    """An object of a pipeline file lacks a key; a template may still ask whether it is there."""

    __str__ = Exception.__str__  # KeyError would show its message in quotes


class EnvironmentProblem(UserError):
    """The machine lacks something (a package, a device, disk space): the message says what."""
