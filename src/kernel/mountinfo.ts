/** Reads /proc/PID/mountinfo (Documentation/filesystems/proc.rst, section 3.5). */

export interface MountEntry {
  id: number;
  parent: number;
  major: number;
  minor: number;
  /** The part of the file system that is mounted; `/` unless bind-mounted. */
  root: string;
  mountPoint: string;
  /** Options of this mount. */
  options: string;
  /** Optional fields, such as `shared:1`. */
  tags: string[];
  type: string;
  source: string;
  /** Options of the file system. */
  superOptions: string;
}

/** Leaves out lines that do not have the documented form: the kernel may add fields, but never removes one. */
export function parseMountinfo(text: string | Buffer): MountEntry[] {
  const entries: MountEntry[] = [];
  // latin1 keeps each byte of a name as one character, so that names of any encoding survive the splitting.
  for (const line of (typeof text === 'string' ? text : text.toString('latin1')).split('\n')) {
    const entry = parseLine(line);
    if (entry !== undefined) entries.push(entry);
  }
  return entries;
}

/**
 * The topmost mount at this path: of several at one mount point the last. Takes apart its line alone, since a node has
 * hundreds of mounts.
 */
export function topmostAt(text: Buffer, mountPoint: string): MountEntry | undefined {
  // The kernel may write these as octal digits.
  if (/[\s\\#]/.test(mountPoint))
    return parseMountinfo(text).findLast((entry) => entry.mountPoint === mountPoint);
  const field = Buffer.from(` ${mountPoint} `);
  for (let at = text.lastIndexOf(field); at > 0; at = text.lastIndexOf(field, at - 1)) {
    const end = text.indexOf(LINE_FEED, at);
    const line = text.toString('latin1', text.lastIndexOf(LINE_FEED, at) + 1, end < 0 ? text.length : end);
    const entry = parseLine(line);
    // Other fields may read the same.
    if (entry?.mountPoint === mountPoint) return entry;
  }
  return undefined;
}

const LINE_FEED = 0x0a;

/**
 * 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
 * id parent device root mount-point options tags… - type source super-options
 */
function parseLine(line: string): MountEntry | undefined {
  const fields = line.split(' ');
  const dash = fields.indexOf('-', 6);
  const device = /^(\d+):(\d+)$/.exec(fields[2] ?? '');
  if (dash < 0 || device === null || fields.length < dash + 3) return undefined;
  return {
    id: Number(fields[0]),
    parent: Number(fields[1]),
    major: Number(device[1]),
    minor: Number(device[2]),
    root: unescape(fields[3]),
    mountPoint: unescape(fields[4]),
    options: fields[5] ?? '',
    tags: fields.slice(6, dash),
    type: unescape(fields[dash + 1]),
    source: unescape(fields[dash + 2]),
    superOptions: unescape(fields[dash + 3]),
  };
}

/** The kernel writes space, tab, newline and backslash (and `#` in newer ones) as \ and three octal digits. */
function unescape(field = ''): string {
  const bytes = field.replace(/\\([0-3][0-7]{2})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
  return Buffer.from(bytes, 'latin1').toString('utf8');
}
