/** A layer in a registry of its own, whose device and span table are there and none of whose blocks: what a fetcher begins with. */
import { type RehearsalImage, serveRehearsalImage } from '../../src/process/rehearsal/image.ts';
import { openDevice } from '../../src/store/device.ts';
import { Layout, writeWhole } from '../../src/store/layout.ts';
import type { Cleanup } from './temp.ts';

/** `name`: of its folder. */
export async function rehearsalLayer(
  cleanup: Cleanup,
  name: string,
): Promise<{ layout: Layout; image: RehearsalImage }> {
  const layout = new Layout(await cleanup.tempDir(name));
  await layout.prepare();
  const image = await serveRehearsalImage(layout);
  cleanup.defer(() => image.close());
  const { layerDigest, layer, table } = image;
  const { file } = await openDevice(layout.device(layerDigest), layer.length);
  await file.close();
  await writeWhole(layout.spans(layerDigest), table.encode());
  return { layout, image };
}
