/**
 * The views, in the order of their tabs. A view is a file in views/ that exports a `View`, listed here; what it asks for is a
 * route (src/console/routes.ts). docs/console.md tells how one is added.
 */
import type { ComponentChild } from 'preact';
import { incidentsView } from './views/incidents.tsx';
import { layersView } from './views/layers.tsx';
import { logView } from './views/log.tsx';
import { nodeView } from './views/node.tsx';
import { startView } from './views/start.tsx';

export interface View {
  /** In the address: `#/id`. */
  id: string;
  title: string;
  /** Keys that it knows, for the help: keys, and what they do. */
  keys?: ReadonlyArray<readonly [keys: string, does: string]>;
  /** `words`: those of the address. */
  Body: (props: { words: URLSearchParams }) => ComponentChild;
}

export const VIEWS: readonly View[] = [nodeView, logView, startView, layersView, incidentsView];
