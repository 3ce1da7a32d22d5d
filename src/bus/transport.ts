/** What the library's transport leaves open. */
import { NodeTransport } from '@nats-io/transport-node/lib/node_transport.js';

/**
 * A transport that never connected keeps its socket when it is closed (nats-core 3, `_closed`), as where a server takes a connection
 * and says nothing. Each try of a process that tries again for ever would leave a descriptor.
 */
const { close } = NodeTransport.prototype;
NodeTransport.prototype.close = async function (error) {
  if (this.connected) await close.call(this, error);
  else this.discard();
};
