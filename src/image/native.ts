import koffi from 'koffi';
import { CofaError } from '../../schemas/errors.ts';

/**
 * C functions that Node itself carries. zlib, zstd and OpenSSL are linked into its executable, which exports their
 * symbols (Node's addon documentation promises that for OpenSSL and zlib). They are newer and faster than the shared
 * libraries of a distribution: inflate runs at 570 MB/s where Debian 12's libz does 370. A Node built against shared
 * libraries finds the same symbols through its own dependencies. Where neither holds, the library is opened by name.
 *
 * Types: each binding names its prototype in C and the TypeScript type of the call.
 */
export function bindLibrary<T extends Record<string, (...args: never[]) => unknown>>(library: {
  /** File name for dlopen(3), where Node does not export the functions. */
  file: string;
  /** The Debian package that holds `file`. */
  debianPackage: string;
  /** Function name → C prototype. */
  prototypes: Record<keyof T & string, string>;
}): T {
  let failure: unknown;
  for (const path of [null, library.file]) {
    try {
      // deep: the library's own calls must stay inside of it, though Node may export the same names
      const handle = koffi.load(path, { deep: path !== null });
      const bound: Record<string, unknown> = {};
      for (const [name, prototype] of Object.entries(library.prototypes))
        bound[name] = handle.func(prototype);
      return bound as T;
    } catch (error) {
      failure = error;
    }
  }
  throw new CofaError(
    'environment',
    `neither Node nor ${library.file} offers ${Object.keys(library.prototypes)[0]}`,
    {
      cause: failure,
      hint: `apt-get install ${library.debianPackage}`,
    },
  );
}

/**
 * Memory that native code may keep a pointer into between calls. V8 never moves the store of an ArrayBuffer (it may
 * move small typed arrays without an explicit buffer, hence none here). The memory lives as long as this object, so the
 * owner of native state that points here must hold this object too.
 */
export class NativeBuffer {
  readonly address: bigint;
  readonly bytes: Buffer;
  readonly view: DataView;

  /**
   * Zeroed, unless `cleared` is false: then it holds bytes of an earlier user. `shared`: other threads may use it,
   * too.
   */
  constructor(size: number, cleared = true, shared = false) {
    const store = shared ? new SharedArrayBuffer(size) : storeOf(size, cleared);
    this.address = koffi.address(store);
    this.bytes = Buffer.from(store);
    this.view = new DataView(store);
  }
}

const storeOf = (size: number, cleared: boolean) =>
  cleared ? new ArrayBuffer(size) : Buffer.allocUnsafeSlow(size).buffer;

/** The address of these bytes, for one call into native code: the caller must hold them until it has returned. */
export function addressOf(bytes: Uint8Array): bigint {
  return koffi.address(bytes.buffer) + BigInt(bytes.byteOffset);
}

/** Byte order of the machine, in which C structures are written. */
export const HOST_LITTLE: boolean = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
