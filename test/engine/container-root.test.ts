import { describe, expect, it } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { containerAt, mountOn } from '../../src/engine/container-root.ts';

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

  it('an overlay that cannot be mounted takes the image back with it', async () => {
    let undone = 0;
    const folder = containerAt('/nosuch', '/nosuch/containers/web/image');
    const undo = async () => void (undone += 1);
    await expect(mountOn(Promise.resolve({}), folder, 'temporary', undo)).rejects.toThrow('ENOENT');
    expect(undone).toBe(1);
  });
});
