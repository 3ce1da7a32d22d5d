/**
 * Labels of containerd's pkg/snapshotters, which CRI, dockerd and others add to the layers of what they pull; `cri` in
 * the names means nothing.
 */
export const IMAGE_LABELS = {
  ref: 'containerd.io/snapshot/cri.image-ref',
  manifest: 'containerd.io/snapshot/cri.manifest-digest',
} as const;
