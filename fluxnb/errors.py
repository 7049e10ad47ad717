r"""Everything fluxnb raises or warns of on purpose; knows nothing of the rest.

    FluxnbError                    catch this to catch them all
    ├── InputError (ValueError)    an argument is wrong: what came, what was expected, what to do
    │   └── UnknownModelError      no model of that name
    ├── CheckpointError            a folder or file cannot be loaded as what it claims to be
    ├── DownloadError              a model cannot be had from the hub: no network, access, space, ...
    └── BackendError (ImportError) MLX cannot run on this machine as installed

    FluxnbWarning (UserWarning)    something was done, but not all that was asked
    └── PromptWarning              a prompt was cut, is empty, or asks for what the model was not taught

Each says in one line what came, what was expected and what to do. Names in it come from files and from the
hub, so what would steer a terminal is spelled out: \x1b.
"""


class FluxnbError(Exception):
    """Base of every error that fluxnb raises on purpose."""

    def __str__(self) -> str:
        """Gives the message in printable characters."""
        return _printable(super().__str__())


class InputError(FluxnbError, ValueError):
    """An argument is wrong; the message says what came, what was expected and what to do."""


class UnknownModelError(InputError):
    """No model of that name; the message lists the names that exist."""


class CheckpointError(FluxnbError):
    """A folder or file cannot be loaded; the message names the file, the tensor and the remedy."""


class DownloadError(FluxnbError):
    """A model cannot be had from the hub; the message says what stood in the way and what to do."""


class BackendError(FluxnbError, ImportError):
    """MLX cannot run on this machine as installed; the message says which extra to install."""


class FluxnbWarning(UserWarning):
    """Base of every warning that fluxnb gives."""

    def __str__(self) -> str:
        """Gives the message in printable characters."""
        return _printable(super().__str__())


class PromptWarning(FluxnbWarning):
    """A prompt was cut, is empty, or asks for words or a size that the model was not taught."""


def _printable(message: str) -> str:
    """Spells line breaks, control characters and halves of characters as Python does."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in message)
