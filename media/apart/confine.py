"""What a decoder's process may do: read what its user may read, and compute.

No network, no programs, no writing, no signals to others, and memory up to a limit. Resource limits hold on
every Unix; the filter of system calls (seccomp) where Linux offers it. Numbers of system calls: the kernel's
tables `syscall_64.tbl` and `asm-generic/unistd.h`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import sys

from media.decode.limits import MAX_PIXELS

BYTES_PER_PIXEL = 32
"""Memory of a decoder a pixel: planes, reference frames, the picture in RGB and its scaled copies."""
_LEAST_BYTES, _CODE_BYTES = 2 << 30, 4 << 30

_DENIED = {  # name: its number on x86-64 and on arm64; None where it does not exist
    **{"socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "sendto": (44, 206)},
    **{"sendmsg": (46, 211), "bind": (49, 200), "listen": (50, 201), "accept4": (288, 242)},
    **{"sendmmsg": (307, 269), "fork": (57, None), "vfork": (58, None), "execve": (59, 221)},
    **{"execveat": (322, 281), "kill": (62, 129), "ptrace": (101, 117), "process_vm_readv": (310, 270)},
    **{"process_vm_writev": (311, 271), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438)},
    **{"rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None)},
    **{"mkdirat": (258, 34), "rmdir": (84, None), "creat": (85, None), "link": (86, None)},
    **{"linkat": (265, 37), "unlink": (87, None), "unlinkat": (263, 35), "symlink": (88, None)},
    **{"symlinkat": (266, 36), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53)},
    **{"chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54)},
    **{"truncate": (76, 45), "mknod": (133, None), "mknodat": (259, 33), "utimensat": (280, 88)},
    **{"setxattr": (188, 5), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41)},
    **{"chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280)},
    **{"perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217)},
    **{"request_key": (249, 218), "keyctl": (250, 219), "init_module": (175, 105)},
    **{"finit_module": (313, 273), "open_by_handle_at": (304, 265), "openat2": (437, 437)},
    **{"io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427)},
    **{"pidfd_send_signal": (424, 424), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138)},
    **{"rt_tgsigqueueinfo": (297, 240), "prlimit64": (302, 261), "setpriority": (141, 140)},
    **{"sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118)},
    **{"sched_setattr": (314, 274), "ioprio_set": (251, 30), "fchmodat2": (452, 452), "utime": (132, None)},
    **{"utimes": (235, None), "futimesat": (261, None), "lsetxattr": (189, 6), "fsetxattr": (190, 7)},
    **{"removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16)},
    **{"setxattrat": (463, 463), "removexattrat": (466, 466), "ftruncate": (77, 46), "fallocate": (285, 47)},
    **{"shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193)},
    **{
        "semctl": (66, 191),
        "msgget": (68, 186),
        "msgsnd": (69, 189),
        "msgrcv": (70, 188),
        "msgctl": (71, 187),
    },
    **{
        "mq_open": (240, 180),
        "mq_unlink": (241, 181),
        "mq_timedsend": (242, 182),
        "memfd_create": (319, 279),
    },
    **{"open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431)},
    **{
        "fsmount": (432, 432),
        "fspick": (433, 433),
        "mount_setattr": (442, 442),
        "process_madvise": (440, 440),
    },
    **{"kcmp": (312, 272), "migrate_pages": (256, 238), "move_pages": (279, 239), "quotactl": (179, 60)},
    **{"reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89)},
    **{"sethostname": (170, 161), "settimeofday": (164, 170), "clock_settime": (227, 112)},
    **{"delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294)},
}
_OPEN, _OPENAT, _CLONE, _CLONE3, _SECCOMP = (2, None), (257, 56), (56, 220), (435, 435), (317, 277)
_TGKILL = (234, 131)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
_WRITES, _CREATES = os.O_WRONLY | os.O_RDWR, os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CLONE_THREAD = 0x10000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVILEGES, _SET_FILTER, _ALL_THREADS = 38, 1, 1


def confine(*, on_gpu: bool = False) -> bool:
    """Take away from this process, for good, what a decoder does not need.

    Args:
        on_gpu: it may open files for writing that are there, as drivers do with devices (Landlock says
            which), and its addresses have no limit, of which drivers take more than there is memory.

    Returns:
        Whether the system calls are filtered too.
    """
    most_bytes = max(_LEAST_BYTES, MAX_PIXELS * BYTES_PER_PIXEL)
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)]
    if not on_gpu:
        limits += [
            (resource.RLIMIT_DATA, most_bytes),
            (resource.RLIMIT_AS, most_bytes + _CODE_BYTES),  # which counts shared memory too
        ]
    for what, most in limits:
        hard = resource.getrlimit(what)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):  # a system that knows no such limit
            resource.setrlimit(what, (least, least))
    if not sys.platform.startswith("linux") or platform.machine() not in _MACHINES:
        return False
    return _filter(*_MACHINES[platform.machine()], _CREATES if on_gpu else _WRITES | _CREATES)


def _program(column: int, architecture: int, no_open: int) -> list[tuple[int, int, int, int]]:
    """Instructions (code, jump if true, jump if false, value) of the filter.

    Args:
        no_open: flags with any of which no file is opened.
    """

    def refuse(reason: int) -> tuple[int, int, int, int]:
        return (_RETURN, 0, 0, _ERROR | reason)

    steps = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 1, 0, architecture),
        refuse(errno.EPERM),
        (_LOAD, 0, 0, 0),  # the number of the call
    ]
    if column == 0:  # the x32 calls are the same ones under other numbers
        steps += [(_AT_LEAST, 0, 1, 0x40000000), refuse(errno.EPERM)]
    for numbers in _DENIED.values():
        if (number := numbers[column]) is not None:
            steps += [(_EQUAL, 0, 1, number), refuse(errno.EPERM)]
    # the C library then takes `clone`, whose flags can be seen
    steps += [(_EQUAL, 0, 1, _CLONE3[column]), refuse(errno.ENOSYS)]
    for call, argument, bits, is_wanted in (
        (_OPEN, 1, no_open, False),
        (_OPENAT, 2, no_open, False),
        (_CLONE, 0, _CLONE_THREAD, True),
    ):
        if (number := call[column]) is not None:
            allow, deny = (_RETURN, 0, 0, _ALLOW), refuse(errno.EPERM)
            steps += [
                (_EQUAL, 0, 4, number),
                (_LOAD, 0, 0, 16 + 8 * argument),
                (_ANY_BIT, 0, 1, bits),
                *((allow, deny) if is_wanted else (deny, allow)),
            ]
    # a process may end itself, as `abort` does, and no other
    steps += [
        (_EQUAL, 0, 4, _TGKILL[column]),
        (_LOAD, 0, 0, 16),
        (_EQUAL, 0, 1, os.getpid()),
        (_RETURN, 0, 0, _ALLOW),
        refuse(errno.EPERM),
    ]
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def _filter(column: int, architecture: int, no_open: int) -> bool:
    steps = _program(column, architecture, no_open)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code)))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return False
    return library.syscall(_SECCOMP[column], _SET_FILTER, _ALL_THREADS, program) == 0
