/** Every document of the console: a view's routes stand in a file of their own. */
import { INCIDENT_ROUTES } from './incident-routes.ts';
import { LAYER_ROUTES } from './layer-routes.ts';
import { LOG_ROUTES } from './log-routes.ts';
import { NODE_ROUTES } from './node-route.ts';
import type { Route } from './route.ts';
import { START_ROUTES } from './start-routes.ts';
import { WHAT_IF_ROUTES } from './what-if-route.ts';

export const ROUTES: readonly Route[] = [
  ...NODE_ROUTES,
  ...LOG_ROUTES,
  ...START_ROUTES,
  ...WHAT_IF_ROUTES,
  ...LAYER_ROUTES,
  ...INCIDENT_ROUTES,
];
