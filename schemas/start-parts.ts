/** Where a moment of a start belongs, in the order of a start. Apart from the schemas: the page has no use for those. */
export const START_PARTS = [
  'client',
  'resolve',
  'log',
  'prepare',
  'attach',
  'mount',
  'record',
  'container',
  'reads',
  'program',
] as const;
