"""mx.compile in the one mode that suits MLX's Linux CPU build; knows nothing of what is compiled.

Its usual mode fuses ops into kernels: a second for each at first use, and g++ on the user's machine. MLX has
another (`mlx/compile.h`) that only keeps the graph of a call for the next one. Python has no name for it.
"""

import ctypes

import mlx.core as mx

SET_MODE = "_ZN3mlx4core16set_compile_modeENS0_11CompileModeE"  # mlx::core::set_compile_mode(CompileMode)
NO_FUSE = 2  # of disabled, no_simplify, no_fuse, enabled


def fuse_nothing() -> bool:
    """Sets that mode for the process, or switches mx.compile off where MLX has no such function.

    Returns:
        Whether graphs are kept.
    """
    try:
        set_mode = ctypes.CDLL(mx.__file__)[SET_MODE]  # also looks into libmlx.so, which that one needs
    except (OSError, AttributeError):
        mx.disable_compile()
        return False
    set_mode.argtypes, set_mode.restype = [ctypes.c_int], None
    set_mode(NO_FUSE)
    return True
