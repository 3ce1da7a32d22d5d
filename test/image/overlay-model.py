"""What a chain of layers means, worked out by other means than the engine's: Python's own tar reader, a real folder
for each layer, and the kernel's overlayfs over these folders. What containerd leaves to chance or refuses is done as
the image-spec says: a whiteout concerns lower layers alone, wherever in the tar it stands.

Usage: overlay-model.py WORK TAR...    (lowest layer first)
Mounts the merged tree read-only at WORK/merged. Exit code 2: a layer cannot be unpacked. 3: a hard link leads to a
lower layer, which folders of their own cannot show.
"""
import errno
import os
import posixpath
import shutil
import stat
import subprocess
import sys
import tarfile

MAX_LINKS = 255
PREFIX = 'SCHILY.xattr.'
# Marks on folders while a layer is being unpacked; they move and go with them.
IMPLICIT = 'trusted.model.implicit'
WHITEOUT = 'trusted.model.whiteout.'
TIME = 'trusted.model.time'


class Refused(Exception):
    pass


def walk(root, path):
    """Names of the real path below root, symlinks followed inside it; parts that are missing count as folders."""
    done, left, links = [], list(reversed(path.split('/'))), 0
    while left:
        name = left.pop()
        if name in ('', '.'):
            continue
        if name == '..':
            done = done[:-1]
            continue
        here = posixpath.join(root, *done, name)
        if os.path.islink(here):
            links += 1
            if links > MAX_LINKS:
                raise Refused('loop')
            target = os.readlink(here)
            if target.startswith('/'):
                done = []
            left.extend(reversed(target.split('/')))
            continue
        if os.path.lexists(here) and not os.path.isdir(here):
            raise Refused('a file on the way')
        done.append(name)
    return done


def attributes(path):
    st = os.lstat(path)
    xattrs = {n: os.getxattr(path, n) for n in os.listxattr(path) if not n.startswith('trusted.')}
    return stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, xattrs


def give(path, mode, uid, gid, mtime, xattrs):
    os.chown(path, uid, gid, follow_symlinks=False)
    for name, value in xattrs.items():
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except PermissionError:
            pass
    if not os.path.islink(path):
        os.chmod(path, mode)
    if os.path.isdir(path) and not os.path.islink(path):
        os.setxattr(path, TIME, str(mtime).encode())
    else:
        os.utime(path, ns=(mtime, mtime), follow_symlinks=False)


def parents(upper, lower, path):
    names = walk(upper, path)
    here = upper
    for count, name in enumerate(names, 1):
        here = posixpath.join(here, name)
        if os.path.isdir(here):
            continue
        os.mkdir(here)
        try:
            below = posixpath.join(lower, *walk(lower, '/'.join(names[:count])))
        except Refused as refused:
            if str(refused) == 'loop':
                raise
            below = ''
        if os.path.isdir(below):
            give(here, *attributes(below))
        else:
            give(here, 0o755, 0, 0, 0, {})
        os.setxattr(here, IMPLICIT, b'')
    return here


def mtime_of(member):
    whole, _, fraction = member.pax_headers.get('mtime', str(int(member.mtime))).partition('.')
    return int(whole) * 10**9 + int((fraction + '0' * 9)[:9])


def apply(tar, upper, lower):
    """True: nothing below is to be seen, which overlayfs does not do for an opaque root."""
    hides_all = False
    give(upper, *attributes(lower))
    for member in tar:
        path = posixpath.normpath('/' + member.name).strip('/')
        folder, base = posixpath.split(path)
        here = parents(upper, lower, folder)
        if base == '.wh..wh..opq':
            # Also by way of a symlink that leads there.
            hides_all = hides_all or os.path.samefile(here, upper)
            os.setxattr(here, 'trusted.overlay.opaque', b'y')
            continue
        if base.startswith('.wh.'):
            os.setxattr(here, WHITEOUT + base[4:].encode().hex(), b'')
            continue
        full = posixpath.join(here, base)
        xattrs = {k[len(PREFIX):]: v.encode() for k, v in member.pax_headers.items() if k.startswith(PREFIX)}
        given = (member.mode, member.uid, member.gid, mtime_of(member), xattrs)
        if path == '':
            give(upper, *given)
            continue
        is_dir = os.path.isdir(full) and not os.path.islink(full)
        if os.path.lexists(full) and not (is_dir and member.isdir()):
            shutil.rmtree(full) if is_dir else os.unlink(full)
        if member.isdir():
            if not is_dir:
                os.mkdir(full)
            elif IMPLICIT in os.listxattr(full):
                os.removexattr(full, IMPLICIT)
                for name in os.listxattr(full):
                    if name.startswith('user.'):
                        os.removexattr(full, name)
        elif member.isfile():
            with open(full, 'wb') as file:
                shutil.copyfileobj(tar.extractfile(member), file)
        elif member.issym():
            os.symlink(member.linkname, full)
        elif member.islnk():
            link(upper, lower, member.linkname, full)
        elif member.isfifo():
            os.mkfifo(full)
        else:
            os.mknod(full, stat.S_IFCHR if member.ischr() else stat.S_IFBLK, os.makedev(member.devmajor, member.devminor))
        give(full, *given)
    finish(upper)
    return hides_all


def link(upper, lower, target, full):
    folder, base = posixpath.split(target)
    try:
        source = posixpath.join(upper, *walk(upper, folder), base)
        os.link(source, full, follow_symlinks=False)
    except FileNotFoundError:
        sys.exit(3) if visible(upper, lower, folder, base) else None
        raise


def visible(upper, lower, folder, base):
    # Whether it might be there with both laid over each other; a plain answer is enough to leave the case out.
    for root in (upper, lower):
        for other in (upper, lower):
            try:
                if os.path.lexists(posixpath.join(other, *walk(root, folder), base)):
                    return True
            except (Refused, OSError):
                pass
    return False


def marks(folder):
    return [n for n in os.listxattr(folder) if n.startswith(WHITEOUT)]


def finish(upper):
    for folder, _, _ in os.walk(upper):
        for mark in marks(folder):
            gone = posixpath.join(folder, bytes.fromhex(mark[len(WHITEOUT):]).decode())
            os.removexattr(folder, mark)
            if not os.path.lexists(gone):
                os.mknod(gone, stat.S_IFCHR, 0)
            elif os.path.isdir(gone) and not os.path.islink(gone):
                os.setxattr(gone, 'trusted.overlay.opaque', b'y')
                for inner, _, _ in os.walk(gone):
                    if IMPLICIT in os.listxattr(inner):
                        for name in os.listxattr(inner):
                            if name.startswith('user.'):
                                os.removexattr(inner, name)
                        give(inner, 0o755, 0, 0, 0, {})
    for folder, _, _ in os.walk(upper, topdown=False):
        mtime = int(os.getxattr(folder, TIME))
        for mark in (IMPLICIT, TIME):
            if mark in os.listxattr(folder):
                os.removexattr(folder, mark)
        os.utime(folder, ns=(mtime, mtime))


def mount(lowers, target):
    # Without an upper layer overlayfs wants two lower ones.
    options = 'ro,lowerdir=' + ':'.join(list(reversed(lowers)))
    # By fsconfig(2), which mount takes from util-linux 2.39 on, a list of layers ends at 256 bytes.
    environment = {**os.environ, 'LIBMOUNT_FORCE_MOUNT2': 'always'}
    subprocess.run(['mount', '-t', 'overlay', 'overlay', '-o', options, target], check=True, env=environment)


def main(work, tars):
    os.umask(0)
    lowers = []
    for name in ('none', 'empty', 'below', 'merged'):
        os.mkdir(posixpath.join(work, name), 0o755)
        if name in ('none', 'empty'):
            os.utime(posixpath.join(work, name), (0, 0))
            lowers.append(posixpath.join(work, name))
    below = posixpath.join(work, 'below')
    for index, name in enumerate(tars):
        upper = posixpath.join(work, f'layer{index}')
        os.mkdir(upper)
        mount(lowers, below)
        try:
            with tarfile.open(name) as tar:
                hides_all = apply(tar, upper, below)
        except (Refused, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (
                errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EPERM, errno.ELOOP,
            ):
                raise
            print(f'layer {index}: {error}')
            sys.exit(2)
        finally:
            subprocess.run(['umount', below], check=True)
        if hides_all:
            del lowers[2:]
        lowers.append(upper)
    mount(lowers, posixpath.join(work, 'merged'))


main(sys.argv[1], sys.argv[2:])
