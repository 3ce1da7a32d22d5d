/** A client of containerd's CRI plugin, as the kubelet is one. */
import { connect } from 'node:net';
import { type Client, createClient } from '@connectrpc/connect';
import { createGrpcTransport, Http2SessionManager } from '@connectrpc/connect-node';
import {
  ContainerState,
  ImageService,
  NamespaceMode,
  RuntimeService,
} from '../../src/containerd/generated/runtime/v1/cri_pb.ts';

export interface Pod {
  id: string;
  logs: string;
  /** Pulls for this pod, as a kubelet does for pods of a runtime class. */
  pull(image: string): Promise<void>;
  /** Creates and starts a container; its log is `LOGS/NAME-ATTEMPT.log`. */
  start(name: string, image: string, options?: { command?: string[]; attempt?: number }): Promise<string>;
  stop(): Promise<void>;
}

export interface PodOptions {
  /** Handler of its runtime class. */
  handler?: string;
  /** As `hostUsers: false`: which id of the node its root is; it has 65,536 of them, and a network of its own. */
  rootId?: number;
  /** Each container has processes of its own, as a kubelet asks for; by default those of a pod share theirs. */
  ownPids?: boolean;
}

export interface Cri {
  runtime: Client<typeof RuntimeService>;
  images: Client<typeof ImageService>;
  /** Pulls; returns the image's id. */
  pull(image: string, auth?: { username: string; password: string }): Promise<string>;
  /** A pod on the host's network. */
  runPod(name: string, logs: string, options?: PodOptions): Promise<Pod>;
  exec(container: string, ...cmd: string[]): Promise<{ code: number; stdout: string }>;
  /** `running`, or `exited CODE` … */
  stateOf(container: string): Promise<string>;
  close(): void;
}

/** A call has `timeoutMs`, by default a minute. */
export function connectCri(socket: string, { timeoutMs = 60_000 } = {}): Cri {
  const nodeOptions = { createConnection: () => connect(socket) };
  const sessionManager = new Http2SessionManager('http://localhost', {}, nodeOptions);
  const transport = createGrpcTransport({
    baseUrl: 'http://localhost',
    sessionManager,
    defaultTimeoutMs: timeoutMs,
    // CRI-O tells gRPC from HTTP by this word as it is, without `+proto`.
    interceptors: [
      (next) => (call) => {
        call.header.set('content-type', 'application/grpc');
        return next(call);
      },
    ],
  });
  const runtime = createClient(RuntimeService, transport);
  const images = createClient(ImageService, transport);
  return {
    runtime,
    images,
    pull: async (image, auth) =>
      (await images.pullImage({ image: { image }, ...(auth === undefined ? {} : { auth }) })).imageRef,
    runPod: async (name, logs, { handler = '', rootId, ownPids = false } = {}) => {
      const pid = ownPids ? NamespaceMode.CONTAINER : NamespaceMode.POD;
      const securityContext = { namespaceOptions: { ...namespaces(rootId), pid } };
      const config = {
        metadata: { name, uid: `${name}-uid`, namespace: 'default', attempt: 0 },
        logDirectory: logs,
        annotations: handler === '' ? {} : { 'io.containerd.cri.runtime-handler': handler },
        linux: { securityContext },
      };
      const { podSandboxId } = await runtime.runPodSandbox({ config, runtimeHandler: handler });
      return {
        id: podSandboxId,
        logs,
        pull: async (image) => {
          await images.pullImage({ image: { image }, sandboxConfig: config });
        },
        start: async (container, image, { command = [], attempt = 0 } = {}) => {
          const { containerId } = await runtime.createContainer({
            podSandboxId,
            config: {
              metadata: { name: container, attempt },
              image: { image },
              command,
              logPath: `${container}-${attempt}.log`,
              linux: { securityContext },
            },
            sandboxConfig: config,
          });
          await runtime.startContainer({ containerId });
          return containerId;
        },
        stop: async () => {
          await runtime.stopPodSandbox({ podSandboxId });
          await runtime.removePodSandbox({ podSandboxId });
        },
      };
    },
    exec: async (containerId, ...cmd) => {
      const { exitCode, stdout } = await runtime.execSync({ containerId, cmd, timeout: 20n });
      return { code: exitCode, stdout: Buffer.from(stdout).toString() };
    },
    stateOf: async (containerId) => {
      const { status } = await runtime.containerStatus({ containerId });
      if (status?.state === ContainerState.CONTAINER_RUNNING) return 'running';
      if (status?.state === ContainerState.CONTAINER_EXITED) return `exited ${status.exitCode}`;
      return `state ${status?.state}`;
    },
    close: () => sessionManager.abort(),
  };
}

function namespaces(rootId: number | undefined) {
  if (rootId === undefined) return { network: NamespaceMode.NODE };
  const ids = [{ hostId: rootId, containerId: 0, length: 65_536 }];
  // A kubelet refuses pods that have users of their own on the node's network, whose /sys they cannot mount.
  return { usernsOptions: { mode: NamespaceMode.POD, uids: ids, gids: ids } };
}
