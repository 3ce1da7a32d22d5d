export const MAX_PACKED_WINDOW = 0xffff;
export function unpackWindow(packed: Buffer): Buffer {
  return Buffer.from(packed);
}
