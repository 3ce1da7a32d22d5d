/**
 * Turns the user of an image or of `--user` into numbers, by the /etc/passwd and /etc/group of the image itself. The
 * rules are docker's: a name must exist, a number need not. Without a group the user gets its own group and all groups
 * that list the user; with one, that group alone.
 */
import { CofaError } from '../../schemas/errors.ts';

export interface ContainerUser {
  uid: number;
  gid: number;
  /** Sorted, without `gid`. */
  additionalGids: number[];
  /** Home folder for HOME; `/` where the image does not know the user. */
  home: string;
}

/**
 * Looks up `user[:group]` (each a name or a number; empty: root). `passwd` and `group` are the texts of the image's
 * files, undefined where it has none. Error: `invalid-argument` for a name that the image does not know.
 */
export function lookupUser(
  wanted: string,
  passwd: string | undefined,
  group: string | undefined,
): ContainerUser {
  const colon = wanted.indexOf(':');
  const userPart = (colon < 0 ? wanted : wanted.slice(0, colon)) || '0';
  const groupPart = colon < 0 ? '' : wanted.slice(colon + 1);
  const groups = parseGroup(group ?? '');

  const userNumber = asId(userPart);
  const entry = parsePasswd(passwd ?? '').find((row) => row.name === userPart || row.uid === userNumber);
  if (entry === undefined && userNumber === undefined) {
    throw new CofaError('invalid-argument', `the image has no user ${JSON.stringify(userPart)}`, {
      hint: 'use a name from /etc/passwd of the image, or a number below 2147483648',
    });
  }
  const user = {
    uid: entry?.uid ?? userNumber ?? 0,
    home: entry?.home || '/',
  };

  if (groupPart !== '') {
    const groupNumber = asId(groupPart);
    const found = groups.find((row) => row.name === groupPart || row.gid === groupNumber);
    const gid = found?.gid ?? groupNumber;
    if (gid === undefined) {
      throw new CofaError('invalid-argument', `the image has no group ${JSON.stringify(groupPart)}`, {
        hint: 'use a name from /etc/group of the image, or a number below 2147483648',
      });
    }
    return { ...user, gid, additionalGids: [] };
  }
  const gid = entry?.gid ?? 0;
  const listed =
    entry === undefined ? [] : groups.filter((row) => row.members.includes(entry.name)).map((row) => row.gid);
  const additionalGids = [...new Set(listed)].filter((one) => one !== gid).sort((a, b) => a - b);
  return { ...user, gid, additionalGids };
}

interface PasswdRow {
  name: string;
  uid: number;
  gid: number;
  home: string;
}

interface GroupRow {
  name: string;
  gid: number;
  members: string[];
}

/** passwd(5): name:password:uid:gid:gecos:home:shell. Ignores other lines, as libc does. */
function parsePasswd(text: string): PasswdRow[] {
  const rows: PasswdRow[] = [];
  for (const line of text.split('\n')) {
    const [name, , uidText, gidText, , home] = line.trim().split(':');
    const uid = asId(uidText ?? '');
    const gid = asId(gidText ?? '');
    if (!name || name.startsWith('#') || uid === undefined || gid === undefined) continue;
    rows.push({ name, uid, gid, home: home ?? '' });
  }
  return rows;
}

/** group(5): name:password:gid:member,member. */
function parseGroup(text: string): GroupRow[] {
  const rows: GroupRow[] = [];
  for (const line of text.split('\n')) {
    const [name, , gidText, members] = line.trim().split(':');
    const gid = asId(gidText ?? '');
    if (!name || name.startsWith('#') || gid === undefined) continue;
    rows.push({ name, gid, members: (members ?? '').split(',').filter((member) => member !== '') });
  }
  return rows;
}

/** A user or group number that runc takes: below 2³¹. */
function asId(text: string): number | undefined {
  if (!/^[0-9]{1,10}$/.test(text)) return undefined;
  const id = Number(text);
  return id < 2 ** 31 ? id : undefined;
}
