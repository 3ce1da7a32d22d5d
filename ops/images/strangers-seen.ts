/** The half of the strangers that may be looked at when cofa is tuned. */
import { type Sketch, sh } from './sketch.ts';

export const SEEN: readonly Sketch[] = [
  {
    name: 'gcc',
    does: 'compiles and runs a program of C++ that sorts and matches',
    packages: [['g++', 'libc6-dev', 'make']],
    files: {
      '/app/main.cc': `
#include <algorithm>
#include <iostream>
#include <map>
#include <regex>
#include <string>
#include <vector>
int main() {
  std::map<std::string, int> seen;
  std::string text = "one two three two one two";
  std::regex words("[a-z]+");
  for (std::sregex_iterator it(text.begin(), text.end(), words), end; it != end; ++it) seen[it->str()]++;
  std::vector<std::pair<int, std::string>> order;
  for (const auto &[word, count] : seen) order.emplace_back(count, word);
  std::sort(order.rbegin(), order.rend());
  std::cout << "gcc says " << order.front().second << " " << order.front().first << std::endl;
}`,
      '/app/once.sh': sh('make -s -f /dev/null CXXFLAGS=-O1 -C /tmp VPATH=/app main\nexec /tmp/main'),
    },
    command: ['sh', '/app/once.sh'],
  },
  {
    name: 'tomcat',
    does: 'starts Tomcat, which compiles a page of JSP, and asks for it',
    packages: [['ca-certificates', 'curl'], ['tomcat10-user']],
    // Where a client of containerd brings no names of hosts, Tomcat finds its own.
    setup:
      'tomcat10-instance-create /app/tomcat\nmkdir -p /app/tomcat/webapps/ROOT\necho 127.0.0.1 localhost > /etc/hosts',
    files: {
      '/app/tomcat/webapps/ROOT/index.jsp': `
<%@ page import="java.util.stream.*" %>
tomcat says <%= IntStream.rangeClosed(1, 100).mapToObj(String::valueOf).collect(Collectors.joining(",")).length() %>`,
      '/app/once.sh': sh(`cp -r /app/tomcat /tmp/tomcat
cd /tmp/tomcat
CATALINA_BASE=/tmp/tomcat CATALINA_HOME=/usr/share/tomcat10 /usr/share/tomcat10/bin/catalina.sh run >/tmp/log 2>&1 &
await curl -fsS http://127.0.0.1:8080/
curl -fsS http://127.0.0.1:8080/ | grep says
kill $!
wait || true`),
    },
    command: ['sh', '/app/once.sh'],
    env: ['JAVA_OPTS=-XX:+UseSerialGC -Djava.security.egd=file:/dev/urandom'],
  },
  {
    name: 'rails',
    does: 'starts an application of Rails under Puma and asks for its page',
    packages: [['ruby'], ['rails', 'puma']],
    files: {
      '/app/app.rb': `
require "rails"
require "action_controller/railtie"
require "active_record"
require "puma"
require "net/http"
class App < Rails::Application
  config.root = "/app"
  config.load_defaults 6.1
  config.eager_load = true
  config.secret_key_base = "x" * 64
  config.logger = Logger.new($stderr, level: :warn)
  config.hosts.clear
  routes.append { root to: "hello#index" }
end
class HelloController < ActionController::Base
  def index
    render inline: "rails <%= Rails.version %> says <%= (1..100).sum { |n| n * n } %>"
  end
end
App.initialize!
server = Puma::Server.new(App, Puma::Events.strings)
server.add_tcp_listener("127.0.0.1", 9292)
server.run
puts Net::HTTP.get(URI("http://127.0.0.1:9292/"))
server.stop(true)`,
    },
    command: ['ruby', '/app/app.rb'],
    env: ['RAILS_ENV=production'],
  },
  {
    name: 'perl',
    does: 'an application of Mojolicious with Moose and SQLite answers one request',
    packages: [['perl'], ['libmojolicious-perl', 'libmoose-perl', 'libdbd-sqlite3-perl']],
    files: {
      '/app/app.pl': `
package Counter;
use Moose;
use DBI;
has db => (is => 'ro', lazy => 1, default => sub { DBI->connect('dbi:SQLite:dbname=/tmp/app.db', '', '', { RaiseError => 1 }) });
sub total {
  my $self = shift;
  $self->db->do('CREATE TABLE IF NOT EXISTS numbers (n INTEGER)');
  $self->db->do('INSERT INTO numbers VALUES (?)', undef, $_) for 1 .. 20;
  return $self->db->selectrow_array('SELECT sum(n * n) FROM numbers');
}
__PACKAGE__->meta->make_immutable;
package main;
use Mojolicious::Lite -signatures;
get '/' => sub ($c) { $c->stash(total => Counter->new->total); $c->render(inline => 'perl says <%= $total %>') };
app->secrets(['of no use'])->log->level('warn');
app->start;`,
    },
    command: ['perl', '/app/app.pl', 'get', '/'],
  },
  {
    name: 'elixir',
    does: 'compiles a module of Elixir and runs its processes',
    packages: [['erlang-base', 'erlang-crypto', 'erlang-ssl', 'erlang-inets'], ['elixir']],
    files: {
      '/app/app.exs': `
defmodule Counter do
  use GenServer
  def start_link(first), do: GenServer.start_link(__MODULE__, first, name: __MODULE__)
  def add(n), do: GenServer.call(__MODULE__, {:add, n})
  @impl true
  def init(first), do: {:ok, first}
  @impl true
  def handle_call({:add, n}, _from, sum), do: {:reply, sum + n, sum + n}
end
for app <- [:crypto, :ssl, :inets, :logger], do: {:ok, _} = Application.ensure_all_started(app)
{:ok, _} = Supervisor.start_link([{Counter, 0}], strategy: :one_for_one)
1..100 |> Task.async_stream(&Counter.add(&1 * &1)) |> Stream.run()
IO.puts("elixir says #{Counter.add(0)} #{Base.encode16(:crypto.hash(:sha256, "x")) |> String.slice(0, 8)}")`,
    },
    command: ['elixir', '/app/app.exs'],
  },
  {
    name: 'etcd',
    does: 'a server of Go: starts etcd, puts a key and gets it',
    packages: [['ca-certificates'], ['etcd-server', 'etcd-client']],
    files: {
      '/app/once.sh': sh(`client=http://127.0.0.1:2379 peer=http://127.0.0.1:2380
etcd --data-dir /tmp/etcd --logger zap --log-level error --listen-client-urls $client --advertise-client-urls $client \\
  --listen-peer-urls $peer --initial-advertise-peer-urls $peer --initial-cluster default=$peer >/tmp/log 2>&1 &
await etcdctl --dial-timeout=200ms put greeting 'etcd says hello'
etcdctl get greeting --print-value-only
kill $!
wait || true`),
    },
    command: ['sh', '/app/once.sh'],
    env: ['ETCDCTL_API=3'],
  },
  {
    name: 'nginx',
    does: 'starts nginx and asks for a page',
    packages: [['ca-certificates', 'curl'], ['nginx']],
    files: {
      '/app/nginx.conf': `
pid /tmp/nginx.pid;
error_log /tmp/error.log;
events { worker_connections 64; }
http {
  include /etc/nginx/mime.types;
  gzip on;
  access_log off;
  client_body_temp_path /tmp/body;
  proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;
  server { listen 127.0.0.1:8080; root /app/www; }
}`,
      '/app/www/index.html': 'nginx says hello',
      '/app/once.sh': sh(`nginx -c /app/nginx.conf -g 'daemon on;' 2>/tmp/log
await curl -fsS http://127.0.0.1:8080/
curl -fsS --compressed http://127.0.0.1:8080/
nginx -c /app/nginx.conf -s quit 2>/tmp/log`),
    },
    command: ['sh', '/app/once.sh'],
  },
  {
    name: 'sklearn',
    does: 'pandas and scikit-learn of PyPI: fits a model to a table and scores it',
    packages: [['python3']],
    wheels: ['pandas==2.2.3', 'scikit-learn==1.5.2', 'matplotlib==3.9.2', 'statsmodels==0.14.4'],
    files: {
      '/app/fit.py': `
import numpy, pandas
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score
random = numpy.random.default_rng(7)
table = pandas.DataFrame(random.normal(size=(400, 4)), columns=list("abcd"))
table["class"] = (table.a + table.b > 0).astype(int)
score = cross_val_score(RandomForestClassifier(20, random_state=7), table[list("abcd")], table["class"]).mean()
print("scikit-learn says", round(float(score), 1), len(table.groupby("class").mean()), flush=True)`,
    },
    command: ['python3', '/app/fit.py'],
    env: ['OMP_NUM_THREADS=1', 'OPENBLAS_NUM_THREADS=1'],
  },
  {
    name: 'desktop',
    does: 'a desktop of Xfce on Xvfb: panel, desktop and file manager show their windows',
    packages: [
      ['dbus', 'dbus-x11', 'xvfb', 'fonts-dejavu-core', 'wmctrl'],
      ['xfwm4', 'xfce4-panel', 'xfdesktop4', 'thunar', 'adwaita-icon-theme'],
    ],
    files: {
      '/app/session.sh':
        sh(`for program in xfwm4 xfce4-panel xfdesktop thunar; do $program >/tmp/$program.log 2>&1 & done
for window in xfce4-panel Desktop Thunar; do await sh -c "wmctrl -lx | grep -i $window"; done
echo "the desktop shows $(wmctrl -l | wc -l) windows"`),
      '/app/once.sh': sh(`mkdir -p -m 1777 /tmp/.X11-unix
Xvfb :9 -screen 0 1280x800x24 -nolisten tcp >/tmp/xvfb.log 2>&1 &
export DISPLAY=:9
await test -S /tmp/.X11-unix/X9
dbus-run-session -- sh /app/session.sh
kill $!
wait || true`),
    },
    command: ['sh', '/app/once.sh'],
    env: ['XDG_RUNTIME_DIR=/tmp', 'NO_AT_BRIDGE=1'],
  },
];
