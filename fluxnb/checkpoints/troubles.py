"""What can stand between the hub and this disk, each in one sentence that says what to do; mends nothing."""

import errno
from collections.abc import Collection

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from fluxnb.checkpoints import catalog
from fluxnb.checkpoints.layouts import listed
from fluxnb.errors import DownloadError, FluxnbError, InputError, UnknownModelError


def refusal(error: Exception, repo: str, revision: str | None) -> FluxnbError | None:
    """Says what the hub has against a request; None if it did not get to answer."""
    if not isinstance(error, HfHubHTTPError):
        return None
    page, tokens = f"{constants.ENDPOINT}/{repo}", f"{constants.ENDPOINT}/settings/tokens"
    status, code = error.response.status_code, error.response.headers.get("X-Error-Code")
    if isinstance(error, GatedRepoError):
        return DownloadError(
            f"{repo} is gated: accept its licence at {page}, then log in as the same user with "
            "`hf auth login`, or set HF_TOKEN to a token of theirs"
        )
    if isinstance(error, RevisionNotFoundError):
        return InputError(
            f"{repo} has no revision {revision!r}; see {page}/commits/main, or leave revision out"
        )
    if status == 401 and code != "RepoNotFound":
        return DownloadError(
            f"the hub refuses your token, which is wrong or has expired; make one at {tokens} and log in "
            "with `hf auth login`, or take HF_TOKEN out of the environment"
        )
    if isinstance(error, RepositoryNotFoundError):
        return UnknownModelError(
            f"there is no {repo!r} on the hub, or it is private; {catalog.hint(repo)}look for it at {page}, "
            "and log in with `hf auth login` if it is private"
        )
    if status == 403:
        return DownloadError(
            f"your token may not read {repo}; allow it to read gated repositories at {tokens}, or log in "
            "with another by `hf auth login`"
        )
    reason = "too many requests from here" if status == 429 else f"HTTP status {status}"
    return DownloadError(f"the hub does not give {repo} just now ({reason}); try again in some minutes")


def unreachable(error: Exception, repo: str, lacking: Collection[str]) -> DownloadError:
    """Says why the hub could not be asked, and what of a model is not in the cache."""
    lack = f"the cache {constants.HF_HUB_CACHE} lacks {listed(lacking)} of {repo}"
    if isinstance(error, OfflineModeIsEnabled):
        return DownloadError(f"{lack}, and HF_HUB_OFFLINE forbids to download; start Python without it")
    return DownloadError(
        f"{lack}, and {constants.ENDPOINT} cannot be reached ({_reason(error)}); check the network, and "
        "HF_ENDPOINT and the proxy if you use them"
    )


def broken_off(error: Exception, what: str) -> DownloadError:
    """Says why a download ended before its time."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            f"the disk is full: {what} did not fit into {constants.HF_HUB_CACHE}; make room and call again, "
            "or start Python with HF_HOME set to a folder on a larger disk"
        )
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return DownloadError(
            f"{what} cannot be written to {constants.HF_HUB_CACHE} ({error.strerror}); start Python "
            "with HF_HOME set to a folder that you can write to"
        )
    return DownloadError(
        f"the download of {what} broke off ({_reason(error)}); call again, it goes on where it stopped"
    )


def _reason(error: Exception) -> str:
    """Puts an error of a library into a few words of one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
