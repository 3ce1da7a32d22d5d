/** Every document of the console: a view's routes stand in a file of their own. */
import { NODE_ROUTES } from './node-route.ts';
import type { Route } from './route.ts';

export const ROUTES: readonly Route[] = [...NODE_ROUTES];
