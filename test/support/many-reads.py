"""Reads COUNT pieces of SIZE bytes of the files given, all at once, each by a thread of its own, past the page cache.

Prints JSON: how many ended how, and after how many ms of their own, at the latest and in the middle; and the whole.
"""
import errno, json, os, random, sys, threading, time

count, size, seed = (int(word) for word in sys.argv[1:4])
paths = sys.argv[4:]
files = []
for path in paths:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    files.append((fd, max(1, os.fstat(fd).st_size // size)))
chance = random.Random(seed)
plan = [(fd, chance.randrange(pieces) * size) for fd, pieces in (chance.choice(files) for _ in range(count))]
outcomes, times, lock = {}, [], threading.Lock()
go = threading.Event()


def read(fd, offset):
    go.wait()
    start = time.monotonic()
    try:
        os.pread(fd, size, offset)
        word = "ok"
    except OSError as error:
        word = errno.errorcode.get(error.errno, str(error.errno))
    took = (time.monotonic() - start) * 1000
    with lock:
        outcomes[word] = outcomes.get(word, 0) + 1
        times.append(took)


threading.stack_size(64 * 1024)
threads = [threading.Thread(target=read, args=one, daemon=True) for one in plan]
for thread in threads:
    thread.start()
start = time.monotonic()
go.set()
for thread in threads:
    thread.join()
times.sort()
print(json.dumps({
    "outcomes": outcomes,
    "medianMs": round(times[len(times) // 2]),
    "worstMs": round(times[-1]),
    "ms": round((time.monotonic() - start) * 1000),
}))
