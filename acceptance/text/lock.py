"""One process at a time in a file: a lock that goes with the process that holds it, however it ends."""


def lock(file: int) -> bool:
    """Keep other processes out of an open file until it is closed; return whether none was in it.

    Where the system or the file system has no such locks, nobody is kept out.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
