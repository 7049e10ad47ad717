"""A fast BLAS for MLX on Linux, whose wheels bring the reference BLAS; knows nothing of ops and networks.

`install` writes the addresses of another library's matrix products into the slots through which libmlx.so
calls its own (its global offset table). It works before and after MLX was first used, and touches no other
library of the process: nothing is loaded into the global scope and no symbol is interposed. The products are
then compared with numpy's, and the slots put back if they differ.
"""

import ctypes
import ctypes.util
import importlib.util
import mmap
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

PRODUCTS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
PREFIXES = ("", "scipy_")  # scipy-openblas32 puts the second before all its names

# From here on the names and numbers of the ELF format (System V ABI, chapter 5; elf.h).
PT_LOAD, PT_DYNAMIC = 1, 2
DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_JMPREL = 2, 5, 6, 7, 8, 23
SLOT_RELOCATIONS = (6, 7, 1025, 1026)  # GLOB_DAT and JUMP_SLOT on x86_64, then on aarch64
PROT_READ, PROT_WRITE = 1, 2


@dataclass(frozen=True, slots=True)
class Blas:
    """Which library does MLX's products.

    Attributes:
        path: the library, or None for MLX's own.
        name: for people, such as "OpenBLAS 0.3.34 (scipy-openblas32)".
        trouble: why libraries were passed over, "" if none was.
        prefix: what stands before the library's names.
        threads: how many threads the library took by itself, 0 if it is not ours to say.
    """

    path: str | None = None
    name: str = "MLX's own BLAS"
    trouble: str = ""
    prefix: str = ""
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/self/maps: addresses start..end hold `path` from `offset` on."""

    start: int
    end: int
    writable: bool
    offset: int
    path: str


def install() -> Blas:
    """Gives MLX the first library that works: scipy-openblas32, the system's OpenBLAS, the environment's.

    FLUXNB_BLAS=none keeps MLX's own; any other value of it is the one path tried. Never fails: where no
    library works, MLX keeps its own, which is right and about 20 times slower.

    Returns:
        What does the products from now on.
    """
    # So late that importing fluxnb stays quick, and so early that NumPy's own library is known for its own.
    import numpy  # noqa: F401

    troubles = []
    for path in _candidates():
        try:
            return _install(path)
        except Exception as error:  # whatever is wrong with a library, MLX still has its own
            troubles.append(f"{path}: {error}")
    return Blas(trouble="; ".join(troubles))


def set_threads(blas: Blas, count: int) -> None:
    """Makes an OpenBLAS that `install` loaded use this many threads; another library is left as it is."""
    if blas.path is not None and blas.threads:
        getattr(ctypes.CDLL(blas.path), f"{blas.prefix}openblas_set_num_threads")(count)


def _candidates() -> Iterator[str]:
    """Yields the libraries to try, best first."""
    asked = os.environ.get("FLUXNB_BLAS", "")
    if asked:
        if asked != "none":
            yield asked
        return
    # Importing scipy_openblas32 would load it for every library to see, and SciPy would then call it as well.
    spec = importlib.util.find_spec("scipy_openblas32")
    for folder in spec.submodule_search_locations or () if spec else ():
        yield os.path.join(folder, "lib", "libscipy_openblas.so")
    if system := ctypes.util.find_library("openblas"):
        yield system
    conda = Path(sys.prefix, "lib", "libopenblas.so")
    if conda.exists():
        yield str(conda)


def _install(path: str) -> Blas:
    """Puts one library under MLX's products, or raises and leaves everything as it was."""
    mappings = _mappings()
    mlx = next((m for m in mappings if m.offset == 0 and m.path.endswith("/libmlx.so")), None)
    if mlx is None:
        raise OSError("libmlx.so is not in this process")
    slots = find_slots(Path(mlx.path), PRODUCTS)
    if not slots[PRODUCTS[0]]:
        raise OSError(f"{mlx.path} calls no {PRODUCTS[0]}")
    library = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL)
    # A library that was here before belongs to somebody else (to NumPy under conda), and so do its threads.
    ours = {m.path for m in _mappings()} != {m.path for m in mappings}
    prefix = next((p for p in PREFIXES if hasattr(library, p + PRODUCTS[0])), "")
    found = {name: ctypes.cast(getattr(library, prefix + name), ctypes.c_void_p).value for name in PRODUCTS}
    old = []
    try:
        for name in PRODUCTS:
            for slot in slots[name]:
                old.append((mlx.start + slot, _exchange(mlx.start + slot, found[name], mlx.path)))
        _check_products()
    except BaseException:
        for address, value in old:
            _exchange(address, value, mlx.path)
        raise
    return Blas(path, _name(library, prefix, path), "", prefix, _threads(library, prefix) if ours else 0)


def find_slots(path: Path, names: tuple[str, ...]) -> dict[str, list[int]]:
    """Reads from an ELF file through which slots it calls imported functions.

    Args:
        path: a 64-bit little-endian ELF file.
        names: the functions to look for.

    Returns:
        For each name, where its slots are, in bytes from where the file's beginning is mapped to.

    Raises:
        OSError: it is not such a file.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        if image[:6] != b"\x7fELF\x02\x01":
            raise OSError(f"{path} is not a 64-bit little-endian ELF file")
        (table,) = struct.unpack_from("<Q", image, 32)
        size, count = struct.unpack_from("<HH", image, 54)
        loads, dynamic = [], (0, 0)
        for i in range(count):
            kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", image, table + i * size)
            if kind == PT_LOAD:
                loads.append((offset, address, length))
            elif kind == PT_DYNAMIC:
                dynamic = (offset, length)

        def place(address: int) -> int:  # an address in the loaded library -> offset in the file
            return next(o + address - a for o, a, length in loads if a <= address < a + length)

        tags: dict[int, int] = {}
        for tag, value in struct.iter_unpack("<qQ", image[dynamic[0] : sum(dynamic)]):
            tags.setdefault(tag, value)
        symbols, strings = place(tags[DT_SYMTAB]), place(tags[DT_STRTAB])
        start = next(address for offset, address, _ in loads if offset == 0)
        slots: dict[str, list[int]] = {name: [] for name in names}
        for where, length in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
            if where not in tags:
                continue
            begin = place(tags[where])
            for slot, info, _ in struct.iter_unpack("<QQq", image[begin : begin + tags[length]]):
                if info & 0xFFFFFFFF in SLOT_RELOCATIONS:
                    (name_at,) = struct.unpack_from("<I", image, symbols + 24 * (info >> 32))
                    name = image[strings + name_at : image.find(b"\0", strings + name_at)].decode()
                    if name in slots:
                        slots[name].append(slot - start)
        return slots


def _mappings() -> list[Mapping]:
    """Reads which files this process has in its memory, and where."""
    mappings = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6:
            start, end = (int(address, 16) for address in fields[0].split("-"))
            mappings.append(Mapping(start, end, "w" in fields[1], int(fields[2], 16), fields[5]))
    return mappings


def _exchange(address: int, value: int, path: str) -> int:
    """Writes one slot and returns what was in it; refuses an address outside of the library at path."""
    home = next((m for m in _mappings() if m.path == path and m.start <= address < m.end), None)
    slot = ctypes.c_void_p.from_address(address)
    if home is None or not slot.value:
        raise OSError(f"{path} is not laid out as its file says")
    page = address & -mmap.PAGESIZE
    if not home.writable:
        _protect(page, PROT_READ | PROT_WRITE)
    old, slot.value = slot.value, value  # one aligned store: a thread in a product sees the old or the new
    if not home.writable:
        _protect(page, PROT_READ)
    return old


def _protect(page: int, protection: int) -> None:
    """Sets how a page of this process's memory may be used."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), ctypes.c_int(protection)):
        raise OSError(ctypes.get_errno(), "the slots of libmlx.so cannot be written")


def _check_products() -> None:
    """Compares MLX's products with numpy's: all types, batches, transposed operands, sums onto an array."""
    import numpy as np

    random = np.random.default_rng(0)
    kinds = ((mx.float32, "f4", 1e-5), (mx.float64, "f8", 1e-12), (mx.complex64, "c8", 1e-5))
    for kind, name, tolerance in kinds:
        a, b, c = (random.standard_normal(shape).astype(name) for shape in ((3, 37, 80), (80, 45), (37, 45)))
        if name == "c8":
            a, b = a + 1j * a[::-1], b - 1j * b[::-1]
        with mx.stream(mx.cpu):
            left, right, onto = (mx.array(array, dtype=kind) for array in (a, b, c))
            products = [
                (left @ right, a @ b),
                (right.T @ left[0].T, b.T @ a[0].T),
                (left @ right[:, :1], a @ b[:, :1]),
            ]
            if name != "c8":
                products.append((mx.addmm(onto, left[1], right), c + a[1] @ b))
            for got, expected in products:
                error = np.abs(np.array(got) - expected).max() / np.abs(expected).max()
                if not error <= tolerance:
                    raise OSError(f"its {name} product is off by {error:.1g} of the largest")


def _threads(library: ctypes.CDLL, prefix: str) -> int:
    """Returns how many threads an OpenBLAS took by itself, 0 for another library."""
    count = getattr(library, f"{prefix}openblas_get_num_threads", None)
    return count() if count else 0


def _name(library: ctypes.CDLL, prefix: str, path: str) -> str:
    """Names a library for people: "OpenBLAS 0.3.34 (scipy-openblas32)"."""
    origin = "scipy-openblas32" if "scipy_openblas32" in path else path
    config = getattr(library, f"{prefix}openblas_get_config", None)
    if config is None:
        return origin
    config.restype = ctypes.c_char_p
    product, version = config().decode().split()[:2]
    return f"{product} {'.'.join(version.split('.')[:3])} ({origin})"
