/** What can be said of arm64 without such a machine: numbers of system calls, and builds of native packages. Needs no root. */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { releaseManifest } from '../../ops/packages/modules.ts';
import { SYSTEM_NUMBERS, systemNumber } from '../../src/kernel/system-numbers.ts';

/** Of linux-libc-dev, which machines with a C compiler have. arm64's kernel takes the numbers of asm-generic. */
const HEADERS = {
  x64: '/usr/include/x86_64-linux-gnu/asm/unistd_64.h',
  arm64: '/usr/include/asm-generic/unistd.h',
};

describe('numbers of system calls', () => {
  for (const [processor, header] of Object.entries(HEADERS)) {
    test.runIf(existsSync(header))(`are those of the kernel's headers: ${processor}`, () => {
      const text = readFileSync(header, 'utf8');
      const stated = new Map(
        Array.from(text.matchAll(/^#define __NR_(\w+)\s+(\d+)$/gm), ([, name, number]) => [
          name,
          Number(number),
        ]),
      );
      expect(stated.size).toBeGreaterThan(300);
      const wrong = SYSTEM_NUMBERS.filter((name) => systemNumber(name, processor) !== stated.get(name));
      expect(wrong).toEqual([]);
    });
  }

  test('come from one table', () => {
    const callers = globSync('{src,ops}/**/*.ts').filter((file) =>
      /declare\(\s*'syscall'/.test(readFileSync(file, 'utf8')),
    );
    expect(callers.length).toBeGreaterThan(3);
    const others = callers.filter(
      (file) => !readFileSync(file, 'utf8').includes("from './system-numbers.ts'"),
    );
    expect(others).toEqual([]);
  });
});

describe('packages of a release', () => {
  const { lock } = releaseManifest();
  const entries = Object.entries(lock.packages) as Array<
    [string, { version?: string; cpu?: string[]; os?: string[]; libc?: string[]; hasInstallScript?: boolean }]
  >;

  test('that are builds for x86-64 have one for arm64, of the same version', () => {
    const builds = entries.filter(
      ([, { cpu, os = ['linux'], libc = ['glibc'] }]) =>
        cpu?.includes('x64') === true && os.includes('linux') && libc.includes('glibc'),
    );
    expect(builds.length).toBeGreaterThan(3);
    const alone = builds.filter(([path, { version, cpu }]) => {
      if (cpu?.includes('arm64') === true) return false;
      const other = lock.packages[path.replace('x64', 'arm64')];
      return other?.version !== version;
    });
    expect(alone.map(([path]) => path)).toEqual([]);
  });

  test('that compile when they are installed are known: what they do comes from packages, or is left out', () => {
    const scripts = entries.filter(([, { hasInstallScript }]) => hasInstallScript === true);
    expect(scripts.map(([path]) => path.replace('node_modules/', ''))).toEqual([
      // The package @esbuild/linux-ARCH has its program.
      'esbuild',
      // The other transport: not for arm64.
      'fuse-native',
      // @koromix/koffi-linux-ARCH
      'koffi',
      // @msgpackr-extract/msgpackr-extract-linux-ARCH
      'msgpackr-extract',
    ]);
  });
});
