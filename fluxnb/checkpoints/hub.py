"""From the hub to this disk by huggingface_hub: its cache, token, revisions, offline switch, progress bars.

Only `fetch` downloads, and only the files that an entry of the catalog needs. Knows nothing of networks, or
of what is in a file. To be imported when a model on the hub is named, since huggingface_hub takes a while.

Weights are fetched into the cache by `_fetch_weights` instead of `hf_hub_download`, whose newer versions (2.4
for one; 1.0 did not) throw away what they have of a file when a download breaks off. It is the same cache,
with the same lock and the same name for a file in the making.
"""

import hashlib
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from fluxnb.checkpoints import catalog, troubles
from fluxnb.checkpoints.catalog import Entry
from fluxnb.checkpoints.files import read_json
from fluxnb.checkpoints.layouts import listed
from fluxnb.checkpoints.parts import Parts
from fluxnb.checkpoints.places import Place, choose
from fluxnb.errors import CheckpointError, DownloadError, InputError

COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION = re.compile(r"(?!/)(?!.*\.\.)[^\x00-\x20\x7f~^:?*\[\\]{1,200}")  # git-check-ref-format(1)
SHA256 = re.compile(r"[0-9a-f]{64}")
CHUNK = 1 << 22  # bytes


@dataclass(frozen=True, slots=True)
class File:
    """A file of a repository.

    Attributes:
        name: with its folders.
        size: bytes.
        sha256: of its content, for weights; None for a small file, which Git keeps itself.
    """

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at a commit, and what of it is still to be downloaded.

    Attributes:
        repo: "owner/name".
        revision: as asked for; None for the newest.
        commit: what that is.
        absent: files that are needed and not in the cache.
    """

    repo: str
    revision: str | None
    commit: str
    absent: tuple[File, ...] = ()

    @property
    def folder(self) -> Path:
        """Where its files lie in the cache."""
        return _folder(self.repo, self.commit)

    def blob(self, file: File) -> Path:
        """Where the content of a file of weights lies in the cache."""
        return _home(self.repo) / "blobs" / file.sha256

    def begun(self, file: File) -> int:
        """Tells how many bytes of a file are in the cache already."""
        if file.sha256 is None:
            return 0
        held = [path.stat().st_size for path in (self.blob(file), _partial(self.blob(file))) if path.exists()]
        return min(file.size, max(held, default=0))


def fetch(entry: Entry, revision: str | None = None) -> Parts:
    """Brings a model into the cache, as far as it is not there, and tells where its components lie.

    Args:
        entry: of the catalog, with places.
        revision: branch, tag or commit of its own repository; None for the newest. Others are taken as they
            are now.

    Raises:
        UnknownModelError: the hub has no such repository, or does not show it.
        InputError: the repository has no such revision.
        DownloadError: no access, no network, no space, or broken off; what came so far is kept and used by
            the next call.
        CheckpointError: the repository is no FLUX.1.
    """
    snapshots = {}
    for repo, places, asked in _repositories(entry, revision):
        snapshots[repo] = _look_up(repo, places, asked)
    _check_space(entry, snapshots.values())
    _check_pipeline(entry, snapshots)
    for snapshot in snapshots.values():
        for file in snapshot.absent:
            _download(snapshot, file)
    return _parts(entry, {repo: snapshot.folder for repo, snapshot in snapshots.items()})


def held(entry: Entry, revision: str | None = None) -> Parts | None:
    """Tells where the components of a model lie in the cache, None if one is not there; asks nobody."""
    if absent(entry, revision):
        return None
    folders = {
        repo: _folder(repo, _cached(repo, places, asked)[0])
        for repo, places, asked in _repositories(entry, revision)
    }
    return _parts(entry, folders)


def commit(entry: Entry, parts: Parts) -> str:
    """Tells of which commit of a model's own repository its transformer is."""
    return parts.transformer.relative_to(_home(entry.name) / "snapshots").parts[0]


def absent(entry: Entry, revision: str | None = None) -> tuple[str, ...]:
    """Names the files of a model that the cache lacks, as "owner/name/file"; asks nobody but the disk."""
    return tuple(
        f"{repo}/{name}"
        for repo, places, asked in _repositories(entry, revision)
        for name in _cached(repo, places, asked)[1]
    )


def _repositories(entry: Entry, revision: str | None) -> Iterator[tuple[str, tuple[Place, ...], str | None]]:
    """Gives the repositories of an entry, what lies in each, and the revision to take."""
    if revision is not None and not (isinstance(revision, str) and REVISION.fullmatch(revision)):
        raise InputError(
            f"revision is {revision!r}; give the name of a branch or tag, or a commit, or leave it out"
        )
    for repo in entry.repos:
        places = tuple(place for place in entry.places if place.repo == repo)
        yield repo, places, revision if repo == entry.name else None


def _parts(entry: Entry, folders: Mapping[str, Path]) -> Parts:
    """Tells where the components lie, by the folders of the repositories."""
    places = [place for place in entry.places if place.component != "model_index"]
    return Parts(**{place.component: folders[place.repo] / place.path for place in places})


def _look_up(repo: str, places: Collection[Place], revision: str | None) -> Snapshot:
    """Asks the hub what a repository holds; where it does not answer, a whole copy in the cache will do."""
    try:
        info = HfApi().model_info(
            repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except RevisionNotFoundError as error:
        raise troubles.refusal(error, repo, revision) from error
    except (HTTPError, OSError, ValueError) as error:
        commit, lacking = _cached(repo, places, revision)
        if not lacking:
            return Snapshot(repo, revision, commit)
        raise troubles.refusal(error, repo, revision) or troubles.unreachable(error, repo, lacking) from error
    files = {file.rfilename: file for file in info.siblings or ()}
    lacking = [name for place in places for name in choose(place, files)[1]]
    if lacking:
        raise CheckpointError(
            f"{repo} on the hub is no FLUX.1 that fluxnb can load, it lacks {listed(lacking)}; name one of "
            f"{catalog.listed()}, or another in the layout of diffusers"
        )
    here = _folder(repo, _hash(info.sha, COMMIT, repo))
    needed = [
        files[name] for place in places for name in choose(place, files)[0] if not (here / name).exists()
    ]
    return Snapshot(repo, revision, info.sha, tuple(_file(file, repo) for file in needed))


def _file(file: RepoSibling, repo: str) -> File:
    """Takes from the hub's listing what matters of a file."""
    sha256 = _hash(file.lfs.sha256, SHA256, repo) if file.lfs else None
    return File(file.rfilename, file.size or 0, sha256)


def _cached(repo: str, places: Collection[Place], revision: str | None) -> tuple[str, tuple[str, ...]]:
    """Finds a repository in the cache: its commit ("" if it is not there), and the files that are missing."""
    commit = revision or constants.DEFAULT_REVISION
    if not COMMIT.fullmatch(commit):
        try:
            commit = (_home(repo) / "refs" / commit).read_text(encoding="utf-8")
        except OSError:  # never downloaded
            commit = ""
    folder = _folder(repo, commit)
    files = [path for path in folder.rglob("*") if path.is_file()] if commit else []
    names = {path.relative_to(folder).as_posix() for path in files}
    return commit, tuple(name for place in places for name in choose(place, names)[1])


def _check_space(entry: Entry, snapshots: Collection[Snapshot]) -> None:
    """Refuses to start a download that the disk has no room for."""
    to_come = sum(file.size - snapshot.begun(file) for snapshot in snapshots for file in snapshot.absent)
    cache = Path(constants.HF_HUB_CACHE)
    disk = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(disk).free
    if to_come > free:
        raise DownloadError(
            f"{entry.name} needs {_gigabytes(to_come)} more on the disk of {cache}, which has "
            f"{_gigabytes(free)} free; make room, or start Python with HF_HOME set to a folder on a larger "
            "disk"
        )


def _check_pipeline(entry: Entry, snapshots: Mapping[str, Snapshot]) -> None:
    """Refuses a repository of another kind than FLUX.1's, before its weights are downloaded."""
    if all(place.component != "model_index" for place in entry.places):
        return
    own = snapshots[entry.name]
    for file in own.absent:
        if file.name == "model_index.json":
            _download(own, file)
    kind = read_json(own.folder / "model_index.json").get("_class_name")
    if kind != "FluxPipeline":
        raise CheckpointError(
            f"{entry.name} is a {kind}, expected a FluxPipeline; name one of {catalog.listed()}, or a model "
            "that was made of one of them"
        )


def _download(snapshot: Snapshot, file: File) -> None:
    """Brings one file into the cache."""
    try:
        if file.sha256 is not None:
            _fetch_weights(snapshot, file)
        hf_hub_download(snapshot.repo, file.name, revision=snapshot.revision)  # finds weights that are there
    except (HTTPError, OSError) as error:
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
        error = error if cause is None else cause
        refusal = troubles.refusal(error, snapshot.repo, snapshot.revision)
        raise refusal or troubles.broken_off(error, f"{snapshot.repo}/{file.name}") from error
    if not (snapshot.folder / file.name).exists():
        raise DownloadError(f"{snapshot.repo} was changed while it was being downloaded; call again")


def _fetch_weights(snapshot: Snapshot, file: File) -> None:
    """Downloads a file to where huggingface_hub looks for it, from the byte on that the last call got to."""
    blob = snapshot.blob(file)
    lock = Path(constants.HF_HUB_CACHE) / ".locks" / _home(snapshot.repo).name / f"{blob.name}.lock"
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):  # another process may be at it
        if blob.exists():
            return
        partial = _partial(blob)
        with partial.open("ab") as out:
            if out.tell() > file.size:
                out.truncate(0)
            if out.tell() < file.size:
                http_get(
                    hf_hub_url(snapshot.repo, file.name, revision=snapshot.commit),
                    out,
                    resume_size=out.tell(),
                    headers=build_hf_headers(),
                    displayed_filename=file.name,
                )
        if _digest(partial) != file.sha256:
            size = partial.stat().st_size
            partial.unlink()
            raise DownloadError(
                f"{snapshot.repo}/{file.name} arrived damaged ({size} bytes, expected {file.size} with "
                f"SHA-256 {file.sha256[:8]}...) and was thrown away; call again"
            )
        partial.replace(blob)


def _home(repo: str) -> Path:
    """Where the cache keeps a repository (huggingface_hub's guide "Understand caching")."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def _folder(repo: str, commit: str) -> Path:
    """Where the files of a repository at a commit lie in the cache, as links to the blobs."""
    return _home(repo) / "snapshots" / commit


def _partial(blob: Path) -> Path:
    """Where a file lies while it is being downloaded."""
    return blob.with_name(f"{blob.name}.incomplete")


def _hash(text: str | None, form: re.Pattern, repo: str) -> str:
    """Passes on a hash from the hub; it becomes a name in the cache, so it has to be one."""
    if not form.fullmatch(text or ""):
        raise DownloadError(f"the hub gives {text!r} as a hash in {repo}; try again, or check HF_ENDPOINT")
    return text


def _digest(path: Path) -> str:
    """Gives the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _gigabytes(size: int) -> str:
    """Writes a number of bytes."""
    return f"{size / 1e9:.1f} GB"
