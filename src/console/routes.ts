/** Every document of the console: a view's routes stand in a file of their own. */
import { LAYER_ROUTES } from './layer-routes.ts';
import { LOG_ROUTES } from './log-routes.ts';
import { NODE_ROUTES } from './node-route.ts';
import type { Route } from './route.ts';
import { START_ROUTES } from './start-routes.ts';

export const ROUTES: readonly Route[] = [...NODE_ROUTES, ...LOG_ROUTES, ...START_ROUTES, ...LAYER_ROUTES];
