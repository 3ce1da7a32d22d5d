/**
 * Platforms of images (`os/arch[/variant]`) and the choice among those that an index offers, by the rules of
 * containerd: names are normalised first, and a machine also takes what it can run besides its own (an arm v7
 * machine runs v6 and v5, arm64 runs 32-bit arm, amd64 runs 386).
 */
import { endianness } from 'node:os';
import { CofaError } from '../../schemas/errors.ts';

export interface Platform {
  os: string;
  architecture: string;
  variant?: string;
}

/** Reads `os`, `arch`, `os/arch` or `os/arch/variant`. Throws CofaError `invalid-argument`. */
export function parsePlatform(text: string): Platform {
  const parts = text.split('/');
  const [first = '', second, variant] = parts;
  if (parts.length > 3 || parts.some((part) => !/^[A-Za-z0-9_.-]+$/.test(part))) {
    throw new CofaError(
      'invalid-argument',
      `platform "${text.slice(0, 64)}" is not OS/ARCH or OS/ARCH/VARIANT`,
      {
        hint: 'such as linux/amd64 or linux/arm/v7',
      },
    );
  }
  if (second === undefined) {
    const known = ['linux', 'windows', 'darwin', 'macos', 'freebsd', 'openbsd', 'netbsd'];
    return known.includes(first.toLowerCase())
      ? normalizePlatform({ os: first, architecture: hostPlatform().architecture })
      : normalizePlatform({ os: 'linux', architecture: first });
  }
  return normalizePlatform({
    os: first,
    architecture: second,
    ...(variant === undefined ? {} : { variant }),
  });
}

/** The platform of this machine. Containers are always Linux's. */
export function hostPlatform(): Platform {
  const names: Partial<Record<NodeJS.Architecture | 'ppc64' | 'riscv64', string>> = {
    x64: 'amd64',
    ia32: '386',
    ppc64: endianness() === 'LE' ? 'ppc64le' : 'ppc64',
    mipsel: 'mipsle',
  };
  return normalizePlatform({ os: 'linux', architecture: names[process.arch] ?? process.arch });
}

/** Spellings that mean the same become one: x86_64 is amd64, arm64/v8 is arm64, arm is arm/v7. */
export function normalizePlatform(platform: Platform): Platform {
  let os = platform.os.toLowerCase();
  if (os === 'macos') os = 'darwin';
  let architecture = platform.architecture.toLowerCase();
  let variant = (platform.variant ?? '').toLowerCase();
  switch (architecture) {
    case 'i386':
      architecture = '386';
      variant = '';
      break;
    case 'x86_64':
    case 'x86-64':
    case 'amd64':
      architecture = 'amd64';
      if (variant === 'v1') variant = '';
      break;
    case 'aarch64':
    case 'arm64':
      architecture = 'arm64';
      if (variant === '8' || variant === 'v8') variant = '';
      break;
    case 'armhf':
      architecture = 'arm';
      variant = 'v7';
      break;
    case 'armel':
      architecture = 'arm';
      variant = 'v6';
      break;
    case 'arm':
      if (variant === '') variant = 'v7';
      else if (/^[5-8]$/.test(variant)) variant = `v${variant}`;
      break;
  }
  return variant === '' ? { os, architecture } : { os, architecture, variant };
}

/** The platforms that a machine of this platform runs, best first, beginning with itself. */
export function acceptablePlatforms(wanted: Platform): Platform[] {
  const { os, architecture, variant } = normalizePlatform(wanted);
  const list: Platform[] = [];
  const add = (architecture: string, variant?: string) =>
    list.push(variant === undefined ? { os, architecture } : { os, architecture, variant });
  const addArm = (highest: number) => {
    for (let v = highest; v >= 5; v--) add('arm', `v${v}`);
  };
  const level = Number(/^v([1-9])$/.exec(variant ?? '')?.[1] ?? 0);
  if (architecture === 'amd64') {
    for (let v = level; v >= 2; v--) add('amd64', `v${v}`);
    if (variant !== undefined && level === 0) add('amd64', variant);
    add('amd64');
    add('386');
  } else if (architecture === 'arm64') {
    // arm64/v9 runs v8, which is spelled without a variant.
    if (variant !== undefined) add('arm64', variant);
    add('arm64');
    addArm(8);
  } else if (architecture === 'arm' && level >= 5) {
    addArm(level);
  } else {
    add(architecture, variant);
  }
  return list;
}

/**
 * The best of `offered` for `wanted`: the first (in the index's order) of the most preferred platform.
 * Undefined where none fits.
 */
export function choosePlatform<T extends { platform: Platform }>(
  wanted: Platform,
  offered: readonly T[],
): T | undefined {
  for (const acceptable of acceptablePlatforms(wanted)) {
    const found = offered.find((candidate) =>
      samePlatform(normalizePlatform(candidate.platform), acceptable),
    );
    if (found !== undefined) return found;
  }
  return undefined;
}

export function formatPlatform(platform: Platform): string {
  const { os, architecture, variant } = platform;
  return variant === undefined || variant === ''
    ? `${os}/${architecture}`
    : `${os}/${architecture}/${variant}`;
}

function samePlatform(a: Platform, b: Platform): boolean {
  return a.os === b.os && a.architecture === b.architecture && a.variant === b.variant;
}
