/** Names of what a simulated registry has, and the form of its flat metadata. */
import { createHash } from 'node:crypto';

export const digest = (text: string): string => `sha256:${createHash('sha256').update(text).digest('hex')}`;

/** Flat metadata: a JSON list of devices. */
export const flatOf = (layers: ReadonlyArray<{ diffId: string; size: number }>): Buffer =>
  Buffer.from(JSON.stringify({ devices: layers.map(({ diffId, size }) => ({ diffId, size })) }));
