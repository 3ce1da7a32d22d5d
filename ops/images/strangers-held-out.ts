/** The half of the strangers that is held out: nothing in cofa may be chosen by looking at these. */
import { type Sketch, sh } from './sketch.ts';

export const HELD_OUT: readonly Sketch[] = [
  {
    name: 'rust',
    does: 'compiles and runs a program of Rust',
    packages: [['rustc']],
    files: {
      '/app/main.rs': `
use std::collections::BTreeMap;
fn main() {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for word in "one two three two one two".split(' ') { *seen.entry(word).or_default() += 1; }
    let (word, count) = seen.into_iter().max_by_key(|one| one.1).unwrap();
    println!("rust says {word} {count}");
}`,
      '/app/once.sh': sh('rustc -O -o /tmp/main /app/main.rs\nexec /tmp/main'),
    },
    command: ['sh', '/app/once.sh'],
  },
  {
    name: 'groovy',
    does: 'another language of the JVM: compiles a script of Groovy and runs it',
    packages: [['default-jre-headless'], ['groovy']],
    files: {
      '/app/app.groovy': `
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
def table = (1..100).collect { [n: it, square: it * it] }
def read = new JsonSlurper().parseText(JsonOutput.toJson(table))
println "groovy says \${read.findAll { it.n % 2 == 0 }.sum { it.square }}"`,
    },
    command: ['groovy', '/app/app.groovy'],
    env: ['JAVA_OPTS=-XX:+UseSerialGC'],
  },
  {
    name: 'php',
    does: 'starts Apache with PHP, and a template of Twig answers',
    packages: [
      ['ca-certificates', 'curl'],
      ['apache2', 'libapache2-mod-php'],
      ['php-twig', 'php-symfony-http-foundation'],
    ],
    files: {
      '/app/apache.conf': `
ServerRoot /etc/apache2
ServerName localhost
Listen 127.0.0.1:8080
PidFile /tmp/httpd.pid
DefaultRuntimeDir /tmp
ErrorLog /tmp/error.log
Include mods-available/mpm_prefork.load
Include mods-available/authz_core.load
Include mods-available/mime.load
Include mods-available/dir.load
TypesConfig /etc/mime.types
Include mods-available/php8.2.load
DirectoryIndex index.php
DocumentRoot /app/www
<FilesMatch "\\.php$">
  SetHandler application/x-httpd-php
</FilesMatch>`,
      '/app/www/index.php': `
<?php
require '/usr/share/php/Twig/autoload.php';
require '/usr/share/php/Symfony/Component/HttpFoundation/autoload.php';
$twig = new Twig\\Environment(new Twig\\Loader\\ArrayLoader(['page' => "php says {{ numbers|reduce((sum, n) => sum + n * n) }}\\n"]));
(new Symfony\\Component\\HttpFoundation\\Response($twig->render('page', ['numbers' => range(1, 100)])))->send();`,
      '/app/once.sh': sh(`apache2 -f /app/apache.conf -DFOREGROUND &
await curl -fsS http://127.0.0.1:8080/
curl -fsS http://127.0.0.1:8080/ | grep says
kill $!
wait || true`),
    },
    command: ['sh', '/app/once.sh'],
  },
  {
    name: 'r',
    does: 'R fits a model and draws it with ggplot2',
    packages: [['r-base-core'], ['r-cran-ggplot2']],
    files: {
      '/app/fit.R': `
suppressPackageStartupMessages(library(ggplot2))
fit <- lm(mpg ~ wt + hp, data = mtcars)
ggsave("/tmp/fit.pdf", ggplot(mtcars, aes(wt, mpg)) + geom_point() + geom_smooth(method = "lm", formula = y ~ x), width = 5, height = 4)
cat("R says", round(summary(fit)$r.squared, 3), file.size("/tmp/fit.pdf") > 1000, "\\n")`,
    },
    command: ['Rscript', '/app/fit.R'],
  },
  {
    name: 'webpack',
    does: 'node with some hundred packages: webpack bundles two modules, and the bundle runs',
    packages: [['nodejs'], ['webpack']],
    files: {
      '/app/sum.js': 'export const sum = (numbers) => numbers.reduce((all, n) => all + n * n, 0);',
      '/app/index.js': `
import { sum } from './sum.js';
console.log('webpack says', sum([...Array(100).keys()]));`,
      '/app/build.js': `
const webpack = require('webpack');
webpack({ mode: 'production', context: '/app', entry: './index.js', output: { path: '/tmp/out' } }, (error, stats) => {
  if (error || stats.hasErrors()) throw error ?? new Error(stats.toString());
  require('/tmp/out/main.js');
});`,
    },
    command: ['node', '/app/build.js'],
  },
  {
    name: 'redis',
    does: 'starts Redis, runs a script in it and stops it',
    packages: [['redis-server', 'redis-tools']],
    files: {
      '/app/once.sh':
        sh(`redis-server --port 0 --unixsocket /tmp/redis.sock --save '' --daemonize yes --dir /tmp >/dev/null
cli() { redis-cli -s /tmp/redis.sock "$@"; }
await redis-cli -s /tmp/redis.sock ping
echo "redis says $(cli eval 'local s = 0 for n = 1, 100 do s = redis.call("incrby", KEYS[1], n * n) end return s' 1 sum)"
cli shutdown nosave || true`),
    },
    command: ['sh', '/app/once.sh'],
  },
  {
    name: 'mono',
    does: '.NET as Debian has it: compiles a program of C# and runs it',
    packages: [['mono-runtime'], ['mono-mcs', 'libmono-system-core4.0-cil']],
    files: {
      '/app/hello.cs': `
using System;
using System.Linq;
using System.Text.RegularExpressions;
class Hello {
  static void Main() {
    var words = Regex.Matches("one two three two one two", "[a-z]+").Cast<Match>().GroupBy(one => one.Value);
    Console.WriteLine("mono says {0} {1}", words.Count(), Enumerable.Range(1, 100).Sum(n => n * n));
  }
}`,
      '/app/once.sh': sh('mcs -out:/tmp/hello.exe -r:System.Core /app/hello.cs\nexec mono /tmp/hello.exe'),
    },
    command: ['sh', '/app/once.sh'],
  },
  {
    name: 'arrow',
    does: 'polars, pyarrow and DuckDB of PyPI: writes a Parquet file and asks for sums of it',
    packages: [['python3']],
    wheels: ['polars==1.9.0', 'pyarrow==17.0.0', 'duckdb==1.1.1'],
    files: {
      '/app/query.py': `
import duckdb, polars, pyarrow.parquet
table = polars.DataFrame({"n": range(1000), "kind": ["odd" if n % 2 else "even" for n in range(1000)]})
pyarrow.parquet.write_table(table.to_arrow(), "/tmp/table.parquet")
rows = duckdb.sql("SELECT kind, sum(n * n) FROM '/tmp/table.parquet' GROUP BY kind ORDER BY kind").fetchall()
print("arrow says", [int(sum) for _, sum in rows], polars.read_parquet("/tmp/table.parquet").height, flush=True)`,
    },
    command: ['python3', '/app/query.py'],
    env: ['OMP_NUM_THREADS=1', 'POLARS_MAX_THREADS=2'],
  },
  {
    name: 'office',
    does: 'LibreOffice, without a screen, makes a PDF of a page of HTML',
    packages: [['fonts-dejavu-core', 'fonts-liberation'], ['libreoffice-writer-nogui']],
    files: {
      '/app/letter.html': '<html><body><h1>A letter</h1><p>It says <b>hello</b>.</p></body></html>',
      '/app/once.sh':
        sh(`soffice -env:UserInstallation=file:///tmp/office --headless --convert-to pdf:writer_web_pdf_Export --outdir /tmp /app/letter.html >/tmp/log 2>&1
[ -s /tmp/letter.pdf ] || { cat /tmp/log >&2; exit 1; }
echo "office says $(head -c 4 /tmp/letter.pdf)"`),
    },
    command: ['sh', '/app/once.sh'],
  },
];
