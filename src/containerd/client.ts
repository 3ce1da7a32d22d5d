/** containerd's API (gRPC on its unix socket), as cofa uses it. */
import { existsSync } from 'node:fs';
import { connect } from 'node:net';
import { type Client, Code, ConnectError, createClient, type Interceptor } from '@connectrpc/connect';
import { createGrpcTransport, Http2SessionManager } from '@connectrpc/connect-node';
import { CofaError } from '../../schemas/errors.ts';
import type { TraceContext } from '../../schemas/trace-context.ts';
import { Content } from './generated/containerd/services/content/v1/content_pb.ts';
import { Events } from './generated/containerd/services/events/v1/events_pb.ts';
import { Images } from './generated/containerd/services/images/v1/images_pb.ts';
import { Introspection } from './generated/containerd/services/introspection/v1/introspection_pb.ts';
import { Leases } from './generated/containerd/services/leases/v1/leases_pb.ts';
import { Snapshots } from './generated/containerd/services/snapshots/v1/snapshots_pb.ts';

export interface ContainerdClient {
  content: Client<typeof Content>;
  events: Client<typeof Events>;
  images: Client<typeof Images>;
  introspection: Client<typeof Introspection>;
  leases: Client<typeof Leases>;
  snapshots: Client<typeof Snapshots>;
  /** From now on what is made belongs to this lease: garbage collection leaves it alone while the lease lasts. */
  useLease(id: string): void;
  close(): void;
}

/** Where it listens: on its own, as a part of docker, of k3s. */
const SOCKETS = [
  '/run/containerd/containerd.sock',
  '/run/docker/containerd/containerd.sock',
  '/run/k3s/containerd/containerd.sock',
];
const CALL_MS = 60_000;

/** The socket that was given, or the first that is there. Errors: `environment` when there is none. */
export function findSocket(given: string | undefined): string {
  const found = given ?? process.env.CONTAINERD_ADDRESS ?? SOCKETS.find((path) => existsSync(path));
  if (found !== undefined && existsSync(found)) return found;
  throw new CofaError('environment', `no containerd answers at ${found ?? SOCKETS.join(', ')}`, {
    hint: 'start containerd, or say where it listens: --address PATH',
  });
}

/** `trace`: what the caller does, as its calls say it to containerd. */
export function connectContainerd(socket: string, namespace: string, trace?: TraceContext): ContainerdClient {
  const nodeOptions = { createConnection: () => connect(socket) };
  const sessionManager = new Http2SessionManager('http://localhost', {}, nodeOptions);
  let lease: string | undefined;
  const headers: Interceptor = (next) => (request) => {
    request.header.set('containerd-namespace', namespace);
    for (const [name, value] of Object.entries(trace ?? {})) request.header.set(name, String(value));
    if (lease !== undefined) request.header.set('containerd-lease', lease);
    return next(request);
  };
  const transport = createGrpcTransport({
    baseUrl: 'http://localhost',
    sessionManager,
    interceptors: [headers],
    defaultTimeoutMs: CALL_MS,
  });
  return {
    content: createClient(Content, transport),
    events: createClient(Events, transport),
    images: createClient(Images, transport),
    introspection: createClient(Introspection, transport),
    leases: createClient(Leases, transport),
    snapshots: createClient(Snapshots, transport),
    useLease: (id) => {
      lease = id;
    },
    close: () => sessionManager.abort(),
  };
}

/** Whether containerd refused with this code. */
export function isCode(error: unknown, code: Code): boolean {
  return error instanceof ConnectError && error.code === code;
}

/** What containerd failed with, as an error of ours; others stay as they are. */
export function asCofaError(error: unknown, socket: string): unknown {
  if (!(error instanceof ConnectError)) return error;
  const text = `containerd: ${error.rawMessage}`;
  if (error.rawMessage.includes('snapshotter not loaded')) {
    return new CofaError('environment', text, {
      cause: error,
      hint: `cofa install containerd adds it to containerd's configuration; then restart containerd (${socket})`,
    });
  }
  switch (error.code) {
    case Code.Unavailable:
      return new CofaError('unavailable', text, { cause: error, hint: `is it running at ${socket}?` });
    case Code.DeadlineExceeded:
      return new CofaError('timeout', text, { cause: error });
    case Code.Canceled:
    case Code.Aborted:
      return error;
    case Code.PermissionDenied:
      return new CofaError('unauthorized', text, { cause: error });
    case Code.InvalidArgument:
      return new CofaError('invalid-argument', text, { cause: error });
    default:
      return new CofaError('unavailable', text, { cause: error });
  }
}
