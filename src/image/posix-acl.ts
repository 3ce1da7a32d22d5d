/**
 * POSIX ACLs as extended attributes: 4 bytes version (2), then entries of 2 bytes tag, 2 bytes permissions, 4 bytes
 * user or group. Source: include/uapi/linux/posix_acl_xattr.h. The order is that of posix_acl_valid in fs/posix_acl.c;
 * a disk file system refuses any other. EROFS does not look, so an unsound ACL would reach the kernel's permission
 * checks.
 */

/** Whether Linux would have stored the ACL. */
export function isSoundAcl(value: Buffer): boolean {
  if (value.length < HEADER || (value.length - HEADER) % ENTRY !== 0 || value.readUInt32LE(0) !== 2)
    return false;
  let expected: 'owner' | 'users' | 'groups' | 'other' | 'end' = 'owner';
  let needsMask = false;
  for (let at = HEADER; at < value.length; at += ENTRY) {
    if (value.readUInt16LE(at + 2) > 7) return false;
    const named = value.readUInt32LE(at + 4) !== NO_ID;
    switch (value.readUInt16LE(at)) {
      case USER_OBJ:
        if (expected !== 'owner') return false;
        expected = 'users';
        break;
      case USER:
        if (expected !== 'users' || !named) return false;
        needsMask = true;
        break;
      case GROUP_OBJ:
        if (expected !== 'users') return false;
        expected = 'groups';
        break;
      case GROUP:
        if (expected !== 'groups' || !named) return false;
        needsMask = true;
        break;
      case MASK:
        if (expected !== 'groups') return false;
        expected = 'other';
        break;
      case OTHER:
        if (expected !== 'other' && (expected !== 'groups' || needsMask)) return false;
        expected = 'end';
        break;
      default:
        return false;
    }
  }
  return expected === 'end' || value.length === HEADER;
}

/** Whether a sound ACL says no more than the permission bits; Linux does not keep such an access ACL. */
export function isPlainAcl(value: Buffer): boolean {
  return value.length <= HEADER + 3 * ENTRY;
}

const HEADER = 4;
const ENTRY = 8;
const NO_ID = 0xffffffff;
const USER_OBJ = 0x01;
const USER = 0x02;
const GROUP_OBJ = 0x04;
const GROUP = 0x08;
const MASK = 0x10;
const OTHER = 0x20;
