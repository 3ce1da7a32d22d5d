/** Commands are followed to the files that they are likely to read, in that order. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { gatherHints, type HintCommand } from '../../../src/image/hints/gather.ts';
import { HINT_LIMITS } from '../../../src/image/hints/image-files.ts';
import { namesIn } from '../../../src/image/hints/names-in-text.ts';
import { parsePackage, requiredBy } from '../../../src/image/hints/node.ts';
import { importsOf } from '../../../src/image/hints/python-source.ts';
import { scriptOf } from '../../../src/image/hints/shell-source.ts';
import { elf } from './elf-writer.ts';
import { MemoryFiles, type MemoryTree } from './memory-files.ts';

const command = (cmd: string[], more: Partial<HintCommand> = {}): HintCommand => ({
  entrypoint: [],
  cmd,
  env: [],
  folder: '/',
  ...more,
});

async function gathered(
  tree: MemoryTree,
  what: HintCommand,
): Promise<Array<[program: string, path: string]>> {
  const wanted = await gatherHints(new MemoryFiles(tree), what);
  const found = wanted.map(({ program, file }): [string, string] => [program, file.path]);
  return found.filter(([, path], at) => found.findIndex(([, other]) => other === path) === at);
}
const paths = async (tree: MemoryTree, what: HintCommand) =>
  (await gathered(tree, what)).map(([, path]) => path);

const LOADER: MemoryTree = { '/lib/ld.so': 'loader', '/lib/libc.so': elf({}) };
const program = () => elf({ interpreter: '/lib/ld.so', needed: ['libc.so'] });

/** A table of contents as ICU's data begin with, at `at` of a file: its items have `size` bytes each. */
function icuData(at: number, names: readonly string[], size: number): Buffer {
  const text = names.map((name) => `${name}\0`).join('');
  const bytes = Buffer.alloc(at + 32 + 4 + names.length * 8 + text.length);
  bytes.writeUInt16LE(32, at);
  bytes.set([0xda, 0x27], at + 2);
  bytes.write('CmnD', at + 12);
  const begin = at + 32;
  bytes.writeUInt32LE(names.length, begin);
  let nameAt = 4 + names.length * 8;
  const dataAt = nameAt + text.length;
  bytes.write(text, begin + nameAt, 'latin1');
  for (const [item, name] of names.entries()) {
    bytes.writeUInt32LE(nameAt, begin + 4 + item * 8);
    bytes.writeUInt32LE(dataAt + item * size, begin + 8 + item * 8);
    nameAt += name.length + 1;
  }
  return Buffer.concat([bytes, Buffer.alloc(names.length * size)]);
}

describe('initdb', () => {
  const size = 1 << 19;
  const names = ['curr/a', 'coll/a', 'coll/b', 'coll/c', 'lang/a', 'x', 'region/a'].map(
    (name) => `icudt72l/${name}.res`,
  );
  const data = icuData(4096, names.toSorted(), size);
  const tree = (icu: Buffer): MemoryTree => ({
    ...LOADER,
    '/usr/lib/postgresql/15/bin/initdb': program(),
    '/usr/lib/postgresql/15/bin/postgres': elf({
      interpreter: '/lib/ld.so',
      needed: ['libc.so', 'libicudata.so.72'],
    }),
    // Its own tables, and what ICU's data are in.
    '/lib/libicudata.so.72': Buffer.concat([
      elf({}),
      Buffer.alloc(4096 - elf({}).length),
      icu.subarray(4096),
    ]),
    '/usr/share/postgresql/15/postgres.bki': 'bootstrap',
    '/usr/share/postgresql/15/system_views.sql': 'create',
    '/usr/share/postgresql/15/README': 'no program reads it',
    '/usr/lib/postgresql/15/lib/plpgsql.so': elf({}),
  });
  const initdb = command(['/usr/lib/postgresql/15/bin/initdb', '-D', '/data']);

  test('reads the server, what it makes a database of, and the collations among the data of ICU', async () => {
    const wanted = await gatherHints(new MemoryFiles(tree(data)), initdb);
    const found = wanted.map(({ file }) => file.path);
    for (const path of [
      '/usr/lib/postgresql/15/bin/postgres',
      '/usr/share/postgresql/15/postgres.bki',
      '/usr/share/postgresql/15/system_views.sql',
      '/usr/lib/postgresql/15/lib/plpgsql.so',
    ])
      expect(found).toContain(path);
    expect(found).not.toContain('/usr/share/postgresql/15/README');
    const parts = wanted.filter(({ file, from, to }) => file.path.includes('icudata') && to - from >= size);
    expect(parts.map(({ from, to }) => (to - from) / size)).toEqual([3, 1, 1]);
    expect(parts.map(({ to }) => (data.length - to) / size)).toEqual([4, 2, 1]);
  });

  test('whose data of ICU are damaged reads the rest', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.integer({ min: 4096, max: 4500 }), fc.nat(255)), { maxLength: 8 }),
        async (changes) => {
          const damaged = Buffer.from(data.subarray(0, 8192));
          for (const [at, value] of changes) damaged[at] = value;
          expect(await paths(tree(damaged), initdb)).toContain('/usr/share/postgresql/15/postgres.bki');
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe('a command', () => {
  test('is looked for on PATH, below the folder where it has a slash, and nowhere where it is no program', async () => {
    const tree = {
      ...LOADER,
      '/opt/bin/tool': program(),
      '/app/bin/tool': program(),
      '/usr/lib/tool': program(),
    };
    const env = ['PATH=/usr/lib:/opt/bin'];
    expect(await paths(tree, command(['tool'], { env }))).toContain('/opt/bin/tool');
    expect(await paths(tree, command(['bin/tool'], { env, folder: '/app' }))).toContain('/app/bin/tool');
    expect(await paths(tree, command(['none'], { env }))).toEqual([]);
    expect(await paths(tree, command([]))).toEqual([]);
  });

  test('that is a script is read with its interpreter, by as many of them as there are', async () => {
    const tree = {
      ...LOADER,
      '/bin/one': '#!/bin/two -x\n',
      '/bin/two': '#! /usr/bin/env -S tool --flag\n',
      '/usr/bin/env': program(),
      '/bin/tool': program(),
    };
    expect(await paths(tree, command(['/bin/one']))).toEqual([
      '/bin/one',
      '/bin/two',
      '/usr/bin/env',
      '/lib/ld.so',
      '/lib/libc.so',
      '/bin/tool',
    ]);
  });

  test('reads what the C library reads for it, and what a library reads when it is loaded', async () => {
    const first = ['/etc/passwd', '/etc/nsswitch.conf', '/etc/localtime'];
    const gconv = '/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache';
    const tree = {
      ...LOADER,
      ...Object.fromEntries([...first, gconv, '/etc/ssl/openssl.cnf'].map((path) => [path, '#'])),
      '/bin/plain': program(),
      '/bin/tls': elf({ interpreter: '/lib/ld.so', needed: ['libcrypto.so.3'] }),
      '/lib/libcrypto.so.3': elf({}),
    };
    const plain = await paths(tree, command(['plain']));
    expect(plain).toEqual(expect.arrayContaining(first));
    expect(plain).not.toContain('/etc/ssl/openssl.cnf');
    expect(plain).not.toContain(gconv);
    const found = await paths(tree, command(['tls'], { env: ['LANG=C.UTF-8'] }));
    expect(found).toEqual(expect.arrayContaining([...first, gconv, '/etc/ssl/openssl.cnf']));
  });

  test('that runs itself comes to an end', async () => {
    const tree = { '/bin/a': '#!/bin/b\n', '/bin/b': '#!/bin/a\n', '/bin/c': 'c; c; c\n' };
    expect(await paths(tree, command(['/bin/a']))).toEqual(['/bin/a', '/bin/b']);
    expect(await paths(tree, command(['/bin/c']))).toEqual(['/bin/c']);
  });

  test('of an entry point that passes its arguments on is the one that they name', async () => {
    const tree = {
      ...LOADER,
      '/bin/sh': program(),
      '/bin/entry': '#!/bin/sh\nset -e\n# nothing: tool2\nexec "$@"\n',
      '/bin/tool': program(),
      '/bin/tool2': program(),
    };
    expect(await gathered(tree, command(['tool', 'x'], { entrypoint: ['/bin/entry'] }))).toEqual([
      ['/bin/entry', '/bin/entry'],
      ['/bin/entry', '/bin/sh'],
      ['/bin/entry', '/lib/ld.so'],
      ['/bin/entry', '/lib/libc.so'],
      ['tool', '/bin/tool'],
    ]);
  });

  test('behind a wrapper is the one that it runs', async () => {
    const tree = { ...LOADER, '/bin/tini': program(), '/bin/tool': program(), '/bin/2': program() };
    expect(await paths(tree, command(['tini', '-v', '--', 'tool']))).toContain('/bin/tool');
  });

  test('that finds the image damaged still gives what was found before', async () => {
    const files = new MemoryFiles({
      ...LOADER,
      '/bin/sh': program(),
      '/bin/entry': '#!/bin/sh\nexec tool\n',
    });
    const over = { ...HINT_LIMITS, reads: 3 };
    const wanted = await gatherHints(files, command(['/bin/entry']), { limits: over });
    expect(wanted.map(({ file }) => file.path)).toContain('/bin/entry');
    expect(files.reads.length).toBe(3);
    expect(await gatherHints(files, command(['/bin/entry']), { isOver: () => true })).toEqual([]);
  });
});

describe('a shell script', () => {
  test('names commands in lists, pipes and substitutions, with their literal words', () => {
    const script = [
      '#!/bin/sh -eu',
      'PATH=/opt/pg/bin:$PATH',
      'initdb --no-sync "--auth=trust" >/dev/null && echo done',
      'if [ -f x ]; then exec gosu user "$0"; fi',
      'X=$(find /tmp | sort -u)',
      'cat <<END',
      'notacommand here',
      'END',
      'exec python3 -m \\',
      '  app "$@"',
    ].join('\n');
    expect(scriptOf(script)).toMatchObject({
      path: ['/opt/pg/bin'],
      commands: [
        { words: ['initdb', '--no-sync', '--auth=trust'], isArguments: false },
        { words: ['gosu', 'user'], isArguments: false },
        { words: ['find', '/tmp'], isArguments: false },
        { words: ['sort', '-u'], isArguments: false },
        { words: ['cat'], isArguments: false },
        { words: ['python3', '-m', 'app'], isArguments: true },
      ],
    });
  });

  test('mentions programs that it looks for, and reads other scripts into itself', () => {
    const script = [
      'RUN="$HOME_OF_IT"/bin/java',
      'other=`which perl 2>/dev/null`',
      'if command -v "ruby" >/dev/null; then :; fi',
      '[ -r "$BASE/bin/env.sh" ] && . "$BASE/bin/env.sh"',
      '. ./lib.sh; x',
      'source $1',
    ].join('\n');
    expect(scriptOf(script)).toMatchObject({
      mentioned: ['java', 'perl', 'ruby'],
      sourced: ['env.sh', './lib.sh'],
    });
  });

  test('knows its variables: literal ones, those of the image, and not what a branch may set', () => {
    const variables = new Map([['HOME_OF_IT', '/opt/it']]);
    const script = [
      'EXEC="tool"',
      'if windows; then EXEC=wtool; fi',
      'DIR="$HOME_OF_IT/bin"',
      'GONE=$(find x)',
      '"$DIR/$EXEC" "${MODE:-fast}" $GONE x',
      'set -- "$NONE$EXEC" -a "$@"',
      'eval exec "\\"$DIR\\""/other',
    ].join('\n');
    const { commands } = scriptOf(script, variables);
    expect(commands.map(({ words }) => words.join(' '))).toEqual([
      'windows',
      'find x',
      '/opt/it/bin/tool fast',
      '/opt/it/bin/other',
    ]);
    const empty = scriptOf('NONE=\nEXEC=tool\nset -- "$NONE$EXEC" -a "$@"\n');
    expect(empty.commands).toEqual([{ words: ['tool', '-a'], isArguments: true }]);
    const many = Array.from({ length: 2_000 }, (_, i) => `A${i}=\${A${i - 1}}\${A${i - 1}}x`).join('\n');
    expect(scriptOf(`A-1=x\nA=${'x'.repeat(5_000)}\n${many}\n$A`).commands).toEqual([]);
  });

  test('that reads another one into itself runs what that names, and a program from a folder of a variable', async () => {
    const tree = {
      ...LOADER,
      '/bin/sh': program(),
      '/opt/x/bin/run.sh': '#!/bin/sh\n. "$BASE"/bin/more.sh\nexec "$WHERE"/bin/tool\n',
      '/opt/x/bin/more.sh': 'other\n',
      '/bin/tool': program(),
      '/bin/other': program(),
    };
    const found = await paths(tree, command(['/opt/x/bin/run.sh']));
    expect(found).toEqual(expect.arrayContaining(['/opt/x/bin/more.sh', '/bin/other', '/bin/tool']));
  });

  test('of many commands leaves room for those behind it: none counts twice, or where it is not there', async () => {
    const many = Array.from({ length: 200 }, (_, i) => `none-${i}\necho-program ${i % 3}\n`).join('');
    const tree = {
      ...LOADER,
      '/bin/sh': program(),
      '/bin/first': `#!/bin/sh\n${many}`,
      '/bin/echo-program': program(),
      '/bin/last': program(),
    };
    expect(await paths(tree, command(['sh', '-c', 'first; last']))).toContain('/bin/last');
  });

  test('of any text is read without an error, in a time that grows with it', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 300 }), (text) => {
        expect(scriptOf(text).commands.length).toBeLessThanOrEqual(256);
      }),
    );
    for (const part of ['"', "'", '$(', '`', '<<', 'a\\\n', '((((', '. ', '/bin/', '$X/bin '])
      scriptOf(part.repeat(100_000));
  });
});

describe('a program that nothing is known of', () => {
  test('starts those that it names below a folder that it names or in its own, and in PATH what looks like no word', async () => {
    const names = (...strings: string[]) => Buffer.from(`\0${strings.join('\0')}\0`);
    const tree = {
      ...LOADER,
      '/bin/drive': elf({
        interpreter: '/lib/ld.so',
        body: names('/usr/lib/parts/', 'one', 'sort', 'ld.x', 'libx.so.1'),
      }),
      '/usr/lib/parts/arch/bin/one': elf({ interpreter: '/lib/ld.so', body: names('part', 'drive') }),
      '/usr/lib/parts/arch/bin/two': program(),
      '/usr/lib/elsewhere/bin/one': program(),
      '/usr/lib/parts/arch/bin/part.fast': program(),
      '/bin/sort': program(),
      '/bin/ld.x': program(),
      '/bin/libx.so.1': program(),
    };
    const found = await paths(tree, command(['drive']));
    expect(found.filter((path) => !path.startsWith('/lib/'))).toEqual([
      '/bin/drive',
      '/usr/lib/parts/arch/bin/one',
      '/usr/lib/parts/arch/bin/part.fast',
      '/bin/ld.x',
    ]);
  });

  test('reads the texts among its arguments and what these name, with their compiled parts', async () => {
    const tree = {
      ...LOADER,
      '/bin/tool': program(),
      '/app/main.pl': 'use Web::App;\n  use Data::List qw(first);\nuse Gone;\n__END__\nuse Never;\n',
      '/usr/share/lib/Web/App.pm': '=head1 Use\n\nuse Never;\n\n=cut\nrequire "more.pl";\n',
      '/usr/share/lib/Web/more.pl': 'sub f {\n    require Never;\n}\n',
      '/usr/lib/Data/List.pm': '#',
      '/usr/lib/auto/Data/List/List.so': elf({ needed: ['liblist.so'] }),
      '/lib/liblist.so': elf({}),
      '/usr/share/lib/Never.pm': '#',
    };
    const found = await paths(tree, command(['tool', '-x', 'main.pl'], { folder: '/app' }));
    expect(found.filter((path) => !Object.keys(LOADER).includes(path) && path !== '/bin/tool')).toEqual([
      '/app/main.pl',
      '/usr/lib/auto/Data/List/List.so',
      '/lib/liblist.so',
      '/usr/share/lib/Web/App.pm',
      '/usr/share/lib/Web/more.pl',
      '/usr/lib/Data/List.pm',
    ]);
  });

  test('follows what lies beside the command where that is little', async () => {
    const tree = {
      ...LOADER,
      '/bin/build': program(),
      '/app/main.cc': '#include <vector>\n#include "own.h"\n',
      '/app/own.h': '#',
      '/usr/include/c++/vector': '#include <bits/stl_vector.h>\n',
      '/usr/include/c++/bits/stl_vector.h': '#',
    };
    const own = [
      '/app/main.cc',
      '/app/own.h',
      '/usr/include/c++/vector',
      '/usr/include/c++/bits/stl_vector.h',
    ];
    const built = command(['build'], { folder: '/app' });
    expect(await paths(tree, built)).toEqual(expect.arrayContaining(own));
    const large = { ...tree, '/app/data': 'x'.repeat(300_000) };
    expect(await paths(large, built)).not.toContain('/app/own.h');
  });

  test('takes a name for a file only where it can mean no other one', async () => {
    const tree = {
      ...LOADER,
      '/bin/tool': program(),
      '/app/main.rb': "require 'json'\nrequire 'a/b'\nautoload :DeepThing\n",
      ...Object.fromEntries(Array.from({ length: 5 }, (_, i) => [`/gems/${i}/json.rb`, '#'])),
      '/gems/1/a/b.rb': '#',
      '/gems/2/x/a/b.rb': '#',
      '/app/main/deep_thing.rb': '#',
      '/gems/1/b.py': '#',
    };
    const found = await paths(tree, command(['tool', 'main.rb'], { folder: '/app' }));
    expect(found.filter((path) => /\.(?:rb|py)$/.test(path))).toEqual([
      '/app/main.rb',
      '/gems/1/a/b.rb',
      '/app/main/deep_thing.rb',
    ]);
  });

  test('names in any text are found without an error, in a time that grows with it', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 300 }), (text) => {
        expect(namesIn(`use ${text}`).length).toBeLessThanOrEqual(1_000);
      }),
    );
    for (const part of ['use ', 'a::', '"', '<', "use '", '= ', 'use a b '])
      namesIn(`use ${part.repeat(100_000)}\n`.repeat(3));
  });
});

describe('a program of Java', () => {
  test('that a script starts has its archives beside the script, or in lib', async () => {
    const tree = {
      ...LOADER,
      '/bin/sh': program(),
      '/usr/lib/jvm/bin/java': program(),
      '/usr/lib/jvm/lib/modules': 'modules',
      '/bin/java': { link: '/usr/lib/jvm/bin/java' },
      '/opt/app/bin/run.sh': '#!/bin/sh\nexec "$JAVA_HOME"/bin/java -cp "$CP" Main\n',
      '/opt/app/bin/boot.jar': 'PK',
      '/opt/app/lib/core.jar': { link: '/usr/share/java/core.jar' },
      '/usr/share/java/core.jar': 'PK',
      '/opt/other/lib/other.jar': 'PK',
    };
    const found = await paths(tree, command(['/opt/app/bin/run.sh']));
    expect(found.filter((path) => path.endsWith('.jar'))).toEqual([
      '/opt/app/bin/boot.jar',
      '/usr/share/java/core.jar',
    ]);
  });
});

describe('a Python program', () => {
  test('imports modules that a compiled one names with dots, and looks for no others', async () => {
    const home = '/usr/lib/python3.11';
    const so = (...names: string[]) => elf({ body: Buffer.from(`\0${names.join('\0')}\0`) });
    const tree = {
      ...LOADER,
      '/usr/bin/python3.11': program(),
      [`${home}/os.py`]: '#',
      [`${home}/pack/__init__.py`]: '#',
      [`${home}/pack/main.cpython-311-x86_64-linux-gnu.so`]: so('pack.deep.one', 'pack.none', 'alone'),
      [`${home}/pack/deep/__init__.py`]: '#',
      [`${home}/pack/deep/one.cpython-311-x86_64-linux-gnu.so`]: so('pack.main'),
      [`${home}/pack/deep/two.py`]: '#',
      [`${home}/alone.py`]: '#',
    };
    const found = await paths(tree, command(['python3.11', '-c', 'import pack.main']));
    expect(
      found.filter((path) => path.startsWith(`${home}/pack`)).map((path) => path.slice(home.length)),
    ).toEqual([
      '/pack/__init__.py',
      '/pack/main.cpython-311-x86_64-linux-gnu.so',
      '/pack/deep/__init__.py',
      '/pack/deep/one.cpython-311-x86_64-linux-gnu.so',
    ]);
    expect(found).not.toContain(`${home}/alone.py`);
  });

  test('imports what stands outside of functions, on this system, at run time', () => {
    const source = [
      '"""import docs',
      'import more_docs"""',
      'import a.b, c as d; import e',
      'from . import f, g as h',
      'from ..up.x import (  # why',
      '    y,',
      '    z,',
      ')',
      'from .star import *',
      'try: import fast',
      'except ImportError:',
      '    import slow',
      'if TYPE_CHECKING:',
      '    import types_only',
      "if sys.platform == 'win32':",
      '    import winreg',
      'else:',
      '    import posix_thing',
      'def later(x=1):',
      '    import in_function',
      'class C:',
      '    import in_class',
      "    x = 'import text'",
      "if __name__ == '__main__':",
      '    import main_only',
      'long = 1 + \\',
      '    2',
    ].join('\n');
    const all = importsOf(source).map(({ level, module, names }) => [level, module, names]);
    expect(all).toEqual([
      [0, 'a.b', undefined],
      [0, 'c', undefined],
      [0, 'e', undefined],
      [1, '', ['f', 'g']],
      [2, 'up.x', ['y', 'z']],
      [1, 'star', []],
      [0, 'fast', undefined],
      [0, 'slow', undefined],
      [0, 'posix_thing', undefined],
      [0, 'in_class', undefined],
    ]);
    const inside = importsOf(source, true).map(({ module }) => module);
    expect(inside).toEqual(expect.arrayContaining(['in_function', 'main_only']));
    expect(inside).not.toContain('winreg');
  });

  test('of any text is read without an error, in a time that grows with it', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 300 }), (text) => {
        expect(importsOf(`import a\n${text}`).length).toBeLessThanOrEqual(2_000);
      }),
    );
    for (const part of ['"""', "'", '(', '\\\n', 'import a,', 'from ', ' ', 'if x:'])
      importsOf(part.repeat(100_000), true);
  });

  const python: MemoryTree = {
    ...LOADER,
    '/usr/bin/python3': { link: 'python3.11' },
    '/usr/bin/python3.11': program(),
    '/usr/lib/python3.11/os.py': 'import stat\n',
    '/usr/lib/python3.11/stat.py': '\n',
    '/usr/lib/python3.11/__pycache__/os.cpython-311.pyc': 'os',
    '/usr/lib/python3.11/encodings/__init__.py': 'from . import aliases\n',
    '/usr/lib/python3.11/encodings/aliases.py': '\n',
    '/usr/lib/python3.11/encodings/__pycache__/__init__.cpython-311.pyc': 'e',
    '/usr/lib/python3.11/json.py': 'import fast\n',
    '/usr/lib/python3.11/lib-dynload/fast.cpython-311-x86_64-linux-gnu.so': elf({ needed: ['libfast.so'] }),
    '/usr/lib/libfast.so': elf({}),
    '/usr/lib/python3/dist-packages/pack/__init__.py':
      'from .sub import x\nfrom pack import other, nothing\n',
    '/usr/lib/python3/dist-packages/pack/sub.py': 'from . import other\nimport pack.sub\n',
    '/usr/lib/python3/dist-packages/pack/other.py': 'from .. import toofar\n',
    '/usr/lib/python3/dist-packages/pack/__pycache__/sub.cpython-311.pyc': 'compiled',
    '/usr/lib/python3/dist-packages/x.pth': '/opt/more\nimport pathed\n',
    '/opt/more/pathed.py': '\n',
    '/app/hello.py': 'import json, helper\ndef f():\n  import pack\n',
    '/app/helper.py': '\n',
  };

  test('starts with what every start reads, then its script, then what that imports; compiled where it is', async () => {
    expect(await gathered(python, command(['python3', 'hello.py'], { folder: '/app' }))).toEqual([
      ['python3', '/usr/bin/python3.11'],
      ['python3', '/lib/ld.so'],
      ['python3', '/lib/libc.so'],
      ['python3', '/usr/lib/python3.11/encodings/__pycache__/__init__.cpython-311.pyc'],
      ['python3', '/usr/lib/python3.11/encodings/aliases.py'],
      ['python3', '/usr/lib/python3.11/__pycache__/os.cpython-311.pyc'],
      ['python3', '/usr/lib/python3.11/stat.py'],
      ['python3', '/usr/lib/python3/dist-packages/x.pth'],
      ['python3', '/opt/more/pathed.py'],
      ['', '/app/hello.py'],
      ['', '/usr/lib/python3.11/json.py'],
      ['', '/usr/lib/python3.11/lib-dynload/fast.cpython-311-x86_64-linux-gnu.so'],
      ['', '/usr/lib/libfast.so'],
      ['', '/app/helper.py'],
      ['', '/usr/lib/python3/dist-packages/pack/__init__.py'],
      ['', '/usr/lib/python3/dist-packages/pack/__pycache__/sub.cpython-311.pyc'],
      ['', '/usr/lib/python3/dist-packages/pack/other.py'],
    ]);
  });

  test('is also one by -m, by -c, in a virtual environment, and with a name in a compiled module', async () => {
    const venv = {
      ...python,
      '/venv/bin/python': { link: '/usr/bin/python3.11' },
      '/venv/pyvenv.cfg': 'home = /usr/bin\n',
      '/venv/lib/python3.11/site-packages/only/__init__.py': '\n',
      '/venv/lib/python3.11/site-packages/only/__main__.py': 'import native\n',
      '/venv/lib/python3.11/site-packages/native.abi3.so': elf({ body: Buffer.from('\0json\0') }),
    };
    const found = await paths(venv, command(['/venv/bin/python', '-m', 'only']));
    expect(found).toEqual(
      expect.arrayContaining([
        '/venv/lib/python3.11/site-packages/only/__main__.py',
        '/venv/lib/python3.11/site-packages/native.abi3.so',
        '/usr/lib/python3.11/json.py',
      ]),
    );
    expect(await paths(python, command(['python3', '-I', '-c', 'import pack']))).toContain(
      '/usr/lib/python3/dist-packages/pack/other.py',
    );
  });

  test('whose modules import each other without an end comes to one', async () => {
    const tree = { ...python };
    for (let i = 0; i < 6_000; i++)
      tree[`/app/m${i}.py`] = `import m${i + 1}, m${(i * 7) % 6_000}\nfrom . import x\n`;
    tree['/app/hello.py'] = 'import m0\n';
    const found = await paths(tree, command(['python3', '/app/hello.py']));
    expect(found).toContain('/app/m100.py');
    expect(found.length).toBeLessThan(5_000);
  });
});

describe('a Node program', () => {
  test('reads its script and what that requires, resolved as Node does', async () => {
    const tree: MemoryTree = {
      ...LOADER,
      '/usr/bin/node': program(),
      '/app/main.js':
        "const a = require('./a'); import b from 'b'; import 'c/sub'; require(name); require('fs')",
      '/app/package.json': '{"type":"module"}',
      '/app/a.js': "require('./folder'); require('../app/a.js')",
      '/app/folder/index.js': '\n',
      '/app/node_modules/b/package.json': '{"main":"wrong.js","exports":{"node":{"import":"./right.mjs"}}}',
      '/app/node_modules/b/right.mjs': '\n',
      '/node_modules/c/package.json': '{"exports":{"./sub":"./lib/sub.js"}}',
      '/node_modules/c/lib/sub.js': '\n',
    };
    const found = await paths(tree, command(['node', '--no-warnings', 'main.js'], { folder: '/app' }));
    expect(found.slice(3)).toEqual([
      '/app/package.json',
      '/app/main.js',
      '/app/node_modules/b/package.json',
      '/node_modules/c/package.json',
      '/app/a.js',
      '/app/folder/index.js',
      '/app/node_modules/b/right.mjs',
      '/node_modules/c/lib/sub.js',
    ]);
  });

  test('with a package.json of any kind, and any source, is read without an error', () => {
    fc.assert(fc.property(fc.json(), (text) => void parsePackage(text)));
    fc.assert(fc.property(fc.string(), (text) => void parsePackage(text)));
    let deep = '"x"';
    for (let i = 0; i < 5_000; i++) deep = `{"node":${deep}}`;
    expect(parsePackage(`{"exports":${deep}}`).exports.size).toBe(0);
    for (const part of ['import ', 'from ', "require('", '"', 'import{']) requiredBy(part.repeat(60_000));
  });
});

test('a Java program reads the libraries that are loaded by name, the archive of classes and its own', async () => {
  const jdk = '/usr/lib/jvm/jdk';
  const tree: MemoryTree = {
    ...LOADER,
    '/usr/bin/java': { link: `${jdk}/bin/java` },
    [`${jdk}/bin/java`]: program(),
    [`${jdk}/lib/modules`]: Buffer.alloc(100),
    [`${jdk}/lib/libjli.so`]: elf({}),
    [`${jdk}/lib/server/libjvm.so`]: elf({ needed: ['libcpp.so'] }),
    '/usr/lib/libcpp.so': elf({}),
    [`${jdk}/lib/server/classes.jsa`]: 'classes',
    [`${jdk}/lib/libnio.so`]: elf({}),
    '/app/lib/one.jar': 'jar',
    '/app/lib/two.jar': 'jar',
    '/app/lib/notes.txt': 'text',
  };
  const found = await gathered(tree, command(['java', '-cp', '/app/lib/*', 'Main']));
  expect(found.map(([, path]) => path)).toEqual([
    `${jdk}/bin/java`,
    '/lib/ld.so',
    '/lib/libc.so',
    `${jdk}/lib/libjli.so`,
    `${jdk}/lib/server/libjvm.so`,
    '/usr/lib/libcpp.so',
    `${jdk}/lib/modules`,
    `${jdk}/lib/server/classes.jsa`,
    '/app/lib/one.jar',
    '/app/lib/two.jar',
    `${jdk}/lib/libnio.so`,
  ]);
  expect(found.filter(([whose]) => whose === '').map(([, path]) => path)).toEqual([
    '/app/lib/one.jar',
    '/app/lib/two.jar',
    `${jdk}/lib/libnio.so`,
  ]);
});
