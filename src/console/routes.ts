/** Every document of the console: a view's routes stand in a file of their own. */
import { LOG_ROUTES } from './log-routes.ts';
import { NODE_ROUTES } from './node-route.ts';
import type { Route } from './route.ts';

export const ROUTES: readonly Route[] = [...NODE_ROUTES, ...LOG_ROUTES];
