import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Sink } from '../../src/terminal/output.ts';
import { main } from '../../src/cli/program.ts';
import { halfRandom, pushSmallImage, type SmallImage } from '../index/small-image.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let registry: RegistryServer;
let image: SmallImage;

beforeAll(async () => {
  const directory = await cleanup.tempDir('cli-index');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  image = await pushSmallImage(
    directory,
    registry.host,
    'team/app',
    [
      { compression: 'gzip', files: { 'data/large': halfRandom(4 << 20), 'bin/tool': 'x' } },
      { compression: 'zstd', files: { 'data/small': 'text\n' } },
    ],
    { Cmd: ['/bin/tool'] },
  );
});
afterAll(() => cleanup.run());

let out = '';
let err = '';
const sink: Sink = { out: (text) => (out += text), err: (text) => (err += text), errIsTerminal: false };
beforeEach(() => {
  out = '';
  err = '';
});
const cofa = (...argv: string[]) => main(argv, sink);

describe('cofa index and cofa inspect', () => {
  it('inspect says that the image has no sidecar', async () => {
    expect(await cofa('inspect', image.ref)).toBe(0);
    expect(out).toMatch(/^sidecar +none: /m);
    expect(out).toMatch(/^platform +linux\/\w+$/m);
  });

  it('--dry-run does all but push', async () => {
    const before = registry.requests().length;
    expect(await cofa('index', '--dry-run', '--json', image.ref)).toBe(0);
    const result = JSON.parse(out);
    expect(result).toMatchObject({ ref: image.ref, layers: 2, indexed: true, sidecar: null });
    expect(result.flatBytes).toBeGreaterThan(0);
    expect(
      registry
        .requests()
        .slice(before)
        .filter((line) => line.method !== 'GET' && line.method !== 'HEAD'),
    ).toEqual([]);
    expect(err).toBe('');
  });

  it('index pushes a sidecar, which inspect then shows; the image stays as it was', async () => {
    expect(await cofa('index', image.ref)).toBe(0);
    expect(out).toMatch(/^sidecar +sha256:[0-9a-f]{64}, .* of the image$/m);
    out = '';
    expect(await cofa('inspect', '--json', image.ref)).toBe(0);
    const view = JSON.parse(out);
    expect(view.layers.map((layer: { blob: string }) => layer.blob)).toEqual(
      image.layers.map((layer) => layer.digest),
    );
    expect(view.layers.map((layer: { compression: string }) => layer.compression)).toEqual(['gzip', 'zstd']);
    expect(view.layers.map((layer: { rawSize: number }) => layer.rawSize)).toEqual(
      image.tars.map((tar) => tar.length),
    );
    expect(view.sidecar.size).toBeGreaterThan(0);
    out = '';
    expect(await cofa('inspect', image.ref)).toBe(0);
    expect(out).toMatch(/^flat image +.* files, data in \d layers$/m);
  });

  it('a second time it says so and fetches no layer; --force does it again, to the same bytes', async () => {
    expect(await cofa('index', '--json', image.ref)).toBe(0);
    const first = JSON.parse(out);
    expect(first).toMatchObject({ indexed: false });
    const before = registry.requests().length;
    out = '';
    expect(await cofa('index', image.ref)).toBe(0);
    expect(out).toMatch(/is indexed already: sidecar sha256:/);
    const digests = image.layers.map((layer) => layer.digest);
    const fetched = registry
      .requests()
      .slice(before)
      .filter((line) => digests.some((digest) => line.path.includes(digest)));
    expect(fetched).toEqual([]);
    out = '';
    expect(await cofa('index', '--force', '--json', image.ref)).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ indexed: true, sidecar: first.sidecar });
  });

  it.each([
    ['no such tag', (ref: string) => ref.replace(/:1$/, ':nosuch'), 3],
    ['no such repository', (ref: string) => ref.replace('team/app', 'team/none'), 3],
    ['no registry there', () => '127.0.0.1:1/a:1', 5],
    ['a reference that is none', () => 'UPPER//case', 2],
  ])('%s: one error, its exit code', async (_, change, exit) => {
    for (const command of ['index', 'inspect']) {
      err = '';
      expect(await cofa(command, change(image.ref))).toBe(exit);
      expect(err).toMatch(/^cofa: .+\n {2}hint: .+\n$/);
      expect(out).toBe('');
    }
  });
});
