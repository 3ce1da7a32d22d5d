import { describe, expect, it } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { containerAt } from '../../src/supervisor/mounts/container-root.ts';

describe('where the engine overlays for a container', () => {
  it('is the folder of that container', () => {
    expect(containerAt('/r', '/r/containers/web/image').rootfs).toBe('/r/containers/web/rootfs');
  });

  it.each([
    ['another folder', '/mnt'],
    ['another part of the folder', '/r/containers/web/upper'],
    ['another root', '/q/containers/web/image'],
    ['a way out of the root', '/r/containers/../x/image'],
    ['a folder above', '/r/containers/..'],
    ['a name that no container has', '/r/containers/.web/image'],
    ['something deeper', '/r/containers/web/image/web/image'],
  ])('is not %s', (_, dir) => {
    expect(() => containerAt('/r', dir)).toThrow(CofaError);
  });
});
