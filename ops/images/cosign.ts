/** cosign, which tests take for a judge of signatures. */
import { join } from 'node:path';
import { builtWithGo, type GoOptions } from './go-programs.ts';

export { BUILD_MS } from './go-programs.ts';

export const COSIGN_VERSION = 'v3.1.3';

/** Path of the program; undefined where it cannot be built: `onProgress` hears why. */
export async function builtCosign(options: GoOptions = {}): Promise<string | undefined> {
  const folder = await builtWithGo(
    { name: 'cosign', version: COSIGN_VERSION, packages: ['github.com/sigstore/cosign/v3/cmd/cosign'] },
    options,
  );
  return folder && join(folder, 'cosign');
}
