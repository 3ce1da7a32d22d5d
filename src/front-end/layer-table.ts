/** Which layers this front end has open. */
import type { LayerHost } from './layer-host.ts';

export class LayerTable {
  /** By diffID: layers that open, are open, or close. */
  readonly all = new Map<string, Promise<LayerHost>>();
  /** By diffID: layers whose opening waits until their blocks in doubt are compared. */
  readonly doubted = new Set<string>();
  /** By diffID: layers that are open. */
  readonly opened = new Map<string, LayerHost>();
  /** The same by their device's inode. */
  readonly byInode = new Map<number, LayerHost>();

  /** Whether the layer's files are this table's: nothing else may take bytes of them. */
  isInUse(diffId: string): boolean {
    return this.all.has(diffId) && !this.doubted.has(diffId);
  }

  /** Adds a layer that has opened. */
  add(diffId: string, layer: LayerHost): void {
    this.byInode.set(layer.device.inode, layer);
    this.opened.set(diffId, layer);
  }

  /** Removes a layer that is about to close. */
  remove(diffId: string, layer: LayerHost): void {
    this.all.delete(diffId);
    this.opened.delete(diffId);
    this.byInode.delete(layer.device.inode);
  }

  /** Those that open are waited for; those that could not be opened are left out. */
  async settled(): Promise<LayerHost[]> {
    const open = await Promise.allSettled(this.all.values());
    return open.flatMap((layer) => (layer.status === 'fulfilled' ? [layer.value] : []));
  }
}
