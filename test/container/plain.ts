import type { RunOptions } from '../../src/container/options.ts';

/** What `cofa run IMAGE` says of the container. */
export const PLAIN: RunOptions = {
  args: [],
  entrypoint: undefined,
  env: [],
  workdir: undefined,
  user: undefined,
  hostname: undefined,
  network: 'host',
  volumes: [],
  tty: false,
  interactive: false,
  readOnly: false,
  noNewPrivileges: false,
  unconfined: false,
};
