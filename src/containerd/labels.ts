/**
 * Labels of containerd's pkg/snapshotters, which CRI, dockerd and others add to the layers of what they pull; `cri` in
 * the names means nothing.
 */
export const IMAGE_LABELS = {
  ref: 'containerd.io/snapshot/cri.image-ref',
  manifest: 'containerd.io/snapshot/cri.manifest-digest',
  /** The layer's blob. */
  layer: 'containerd.io/snapshot/cri.layer-digest',
  /** The blobs from this layer on up, as many as a label takes. */
  layers: 'containerd.io/snapshot/cri.image-layers',
} as const;

/** Where a blob can be had again: docker mounts layers from there when it pushes to another repository. */
export const sourceLabel = (host: string): string =>
  // As containerd and docker write and read it: a host without its port.
  `containerd.io/distribution.source.${host.replace(/:\d+$/, '')}`;
