/** Who prepares an image that containerd pulls and nobody has prepared: containerd, by unpacking it, or the engine of this node. */
export const PREPARE_POLICIES = ['containerd', 'local'] as const;
export type PreparePolicy = (typeof PREPARE_POLICIES)[number];
