/** Notices of the front end, each to the part that acts on it. */
import type { NatsConnection } from '@nats-io/nats-core';
import { isFrontNotice } from '../../schemas/check-front.ts';
import type { FrontNotice } from '../../schemas/front.ts';
import type { Subjects } from '../../schemas/subjects.ts';
import { decodeIfSound } from '../bus/connection.ts';

/** One handler for each kind of notice. */
export type NoticeHandlers = {
  [Kind in FrontNotice['kind']]: (notice: Extract<FrontNotice, { kind: Kind }>) => unknown;
};

/** Until the connection closes. */
export function routeNotices(bus: NatsConnection, names: Subjects, handlers: NoticeHandlers): void {
  bus.subscribe(names.notice, {
    callback: (error, message) => {
      if (error !== null) return;
      const notice = decodeIfSound(message.data);
      if (isFrontNotice(notice)) route(notice, handlers);
    },
  });
}

function route(notice: FrontNotice, handlers: NoticeHandlers): void {
  // The table's type says that the handler of a kind takes the notice of that kind.
  void (handlers[notice.kind] as (notice: FrontNotice) => unknown)(notice);
}
