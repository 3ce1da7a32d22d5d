import { CofaError } from '../../schemas/errors.ts';
import { bindLibrary, HOST_LITTLE, NativeBuffer } from './native.ts';

/**
 * zstd's streaming decoder as C offers it: node:zlib tells neither where a frame ends nor how many bytes of input an
 * output needed. Holds native memory until close(), up to the largest window allowed.
 */
export class Unzstd {
  readonly #z: Libzstd;
  readonly #maxWindowLog: number;
  /** ZSTD_inBuffer {src, size, pos} at 0, ZSTD_outBuffer {dst, size, pos} at 24. */
  readonly #buffers = new NativeBuffer(48);
  #context: bigint | null;
  /** After run(): bytes of input consumed and of output written by it. */
  consumed = 0;
  written = 0;

  /** `maxWindowLog`: frames may ask for a window of 2 to this power, bytes. By default 128 MiB, as `zstd -d` takes. */
  constructor({ maxWindowLog = MAX_WINDOW_LOG }: { maxWindowLog?: number } = {}) {
    this.#maxWindowLog = maxWindowLog;
    this.#z = libzstd();
    this.#context = this.#z.ZSTD_createDCtx();
    if (this.#context === null) throw new CofaError('environment', 'zstd: out of memory');
    this.#check(this.#z.ZSTD_DCtx_setParameter(this.#context, PARAMETER_WINDOW_LOG_MAX, maxWindowLog));
  }

  /**
   * Decodes [source, source + available) into [target, target + room) as far as it goes. Returns 0 when a frame
   * is complete and all of it is written; else how many bytes of input it would like to have next.
   */
  run(source: bigint, available: number, target: bigint, room: number): number {
    const { view, address } = this.#buffers;
    view.setBigUint64(0, source, HOST_LITTLE);
    view.setBigUint64(8, BigInt(available), HOST_LITTLE);
    view.setBigUint64(16, 0n, HOST_LITTLE);
    view.setBigUint64(24, target, HOST_LITTLE);
    view.setBigUint64(32, BigInt(room), HOST_LITTLE);
    view.setBigUint64(40, 0n, HOST_LITTLE);
    if (this.#context === null) throw new Error('used after close()');
    const result = this.#check(this.#z.ZSTD_decompressStream(this.#context, address + 24n, address));
    this.consumed = Number(view.getBigUint64(16, HOST_LITTLE));
    this.written = Number(view.getBigUint64(40, HOST_LITTLE));
    return result;
  }

  close(): void {
    if (this.#context === null) return;
    this.#z.ZSTD_freeDCtx(this.#context);
    this.#context = null;
  }

  #check(result: number | bigint): number {
    const code = Number(result);
    if (code >= 0) return code;
    const reason = this.#z.ZSTD_getErrorName(result);
    switch (-code) {
      case ERROR_WINDOW_TOO_LARGE:
        throw new CofaError(
          'unsupported',
          `zstd data with a window of more than ${2 ** (this.#maxWindowLog - 20)} MiB`,
          {
            hint: 'push the image again without --long, or with at most --long=27',
          },
        );
      case ERROR_DICTIONARY:
        throw new CofaError('unsupported', 'zstd data that needs a dictionary', {
          hint: 'push the image again without one',
        });
      case ERROR_MEMORY:
        throw new CofaError('environment', 'zstd: out of memory');
      default:
        throw new CofaError('integrity', `corrupt zstd data (${reason})`);
    }
  }
}

/** Bounds what the decoder allocates for one layer. */
const MAX_WINDOW_LOG = 27;
const PARAMETER_WINDOW_LOG_MAX = 100;
// ZSTD_ErrorCode, zstd_errors.h; its stable part
const ERROR_WINDOW_TOO_LARGE = 16;
const ERROR_DICTIONARY = 32;
const ERROR_MEMORY = 64;

type Libzstd = {
  ZSTD_createDCtx(): bigint | null;
  ZSTD_freeDCtx(context: bigint): number;
  ZSTD_DCtx_setParameter(context: bigint, parameter: number, value: number): number | bigint;
  ZSTD_decompressStream(context: bigint, output: bigint, input: bigint): number | bigint;
  ZSTD_getErrorName(code: number | bigint): string;
};

let bound: Libzstd | undefined;

function libzstd(): Libzstd {
  // size_t results are read as signed: error codes are small negative numbers
  bound ??= bindLibrary<Libzstd>({
    file: 'libzstd.so.1',
    debianPackage: 'libzstd1',
    prototypes: {
      ZSTD_createDCtx: 'void *ZSTD_createDCtx()',
      ZSTD_freeDCtx: 'int64_t ZSTD_freeDCtx(void *context)',
      ZSTD_DCtx_setParameter: 'int64_t ZSTD_DCtx_setParameter(void *context, int parameter, int value)',
      ZSTD_decompressStream: 'int64_t ZSTD_decompressStream(void *context, void *output, void *input)',
      ZSTD_getErrorName: 'const char *ZSTD_getErrorName(int64_t code)',
    },
  });
  return bound;
}
