/** Stand-in for src/supervisor/images/indexers.ts: indexing is simulated without a process of its own (index-on-node.ts). */
export class Indexers {
  prepare(): void {}
  readonly pids: readonly number[] = [];

  dismiss(): void {}
  close(): void {}
}
