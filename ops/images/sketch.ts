/** How an image of strangers.ts is written down. */
export interface Sketch {
  name: string;
  /** What its start does, for the tables' readers. */
  does: string;
  /** Debian packages; each list is a layer. */
  packages: string[][];
  /** Packages of PyPI, a layer of its own. */
  wheels?: string[];
  /** By path, their contents, owned by the container's user. */
  files: Record<string, string>;
  /** Shell, as root in the image, before the files lie there. */
  setup?: string;
  command: string[];
  env?: string[];
}

/** Shell that runs with its errors seen: the last line of a start is the proof of its work. */
export const sh = (text: string) => `set -eu\n${text}`;
