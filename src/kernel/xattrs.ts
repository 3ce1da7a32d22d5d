/** Extended attributes of files (xattr(7)), of the very file that a path names: links are not followed. */
import { isErrno } from './errno.ts';
import { callOffLoop, declare } from './libc.ts';

const llistxattr = declare('llistxattr', ['void *', 'void *', 'size_t'], 'int64');
const lgetxattr = declare('lgetxattr', ['void *', 'void *', 'void *', 'size_t'], 'int64');
const lsetxattr = declare('lsetxattr', ['void *', 'void *', 'void *', 'size_t', 'int']);

/** Linux's own limits, bytes: of all names of a file, and of one value (XATTR_LIST_MAX, XATTR_SIZE_MAX). */
const LIST_MAX = 65_536;
const VALUE_MAX = 65_536;

const terminated = (text: Buffer): Buffer => Buffer.concat([text, Buffer.of(0)]);

/** Names of all that the caller may see; none where the file system has none. Errors: the system's. */
export async function listXattrs(path: Buffer): Promise<Buffer[]> {
  const names = Buffer.alloc(LIST_MAX);
  const used = await callOffLoop('llistxattr', llistxattr, terminated(path), names, LIST_MAX).catch(
    (error: unknown) => {
      if (isErrno(error, 'ENOTSUP', 'EOPNOTSUPP')) return 0;
      throw error;
    },
  );
  const found: Buffer[] = [];
  for (let at = 0; at < used; ) {
    const end = names.indexOf(0, at);
    found.push(Buffer.from(names.subarray(at, end)));
    at = end + 1;
  }
  return found;
}

/** Undefined where the file has no such attribute. Errors: the system's. */
export async function getXattr(path: Buffer, name: Buffer): Promise<Buffer | undefined> {
  const value = Buffer.alloc(VALUE_MAX);
  try {
    const call = [terminated(path), terminated(name), value, VALUE_MAX];
    return value.subarray(0, await callOffLoop('lgetxattr', lgetxattr, ...call));
  } catch (error) {
    if (isErrno(error, 'ENODATA', 'ENOTSUP', 'EOPNOTSUPP')) return undefined;
    throw error;
  }
}

/** Sets it, whether it is there or not. Errors: the system's. */
export async function setXattr(path: Buffer, name: Buffer, value: Buffer): Promise<void> {
  await callOffLoop('lsetxattr', lsetxattr, terminated(path), terminated(name), value, value.length, 0);
}
