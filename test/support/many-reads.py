"""Reads COUNT pieces of SIZE bytes, all at once, each by a thread of its own, past the page cache, and compares them.

Arguments: COUNT SIZE SEED and pairs of files, the one under test and the truth. Prints JSON: how many ended how
(ok, wrong, short or the errno's name), and after how many ms of their own, in the middle and at the latest.
"""
import errno, json, os, random, sys, threading, time

count, size, seed = (int(word) for word in sys.argv[1:4])
files = []
for path, truth in zip(sys.argv[4::2], sys.argv[5::2]):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    # Each read asks for its own pages alone, and fails for itself.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    with open(truth, "rb") as file:
        files.append((fd, file.read()))
chance = random.Random(seed)
plan = []
for _ in range(count):
    fd, content = chance.choice(files)
    plan.append((fd, content, chance.randrange(max(1, len(content) // size)) * size))
outcomes, times, lock = {}, [], threading.Lock()
go = threading.Event()


def read(fd, content, offset):
    go.wait()
    start = time.monotonic()
    try:
        got = os.pread(fd, size, offset)
        want = content[offset : offset + size]
        word = "ok" if got == want else "short" if len(got) < len(want) else "wrong"
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
go.set()
for thread in threads:
    thread.join()
times.sort()
print(json.dumps({"outcomes": outcomes, "medianMs": round(times[len(times) // 2]), "worstMs": round(times[-1])}))
