/** `ops/judges [NAME...]`: see ops/judges and ops/images/judges.ts. */
import { hasGo } from './images/go-programs.ts';
import { builtJudge, JUDGES, type Judge, judgeAtHand } from './images/judges.ts';

const all = Object.keys(JUDGES) as Judge[];
const args = process.argv.slice(2);
const isList = args[0] === '--list';
const wanted = isList || args.length === 0 ? all : args.map(judgeOf);

function judgeOf(name: string): Judge {
  const judge = all.find((one) => one === name);
  if (judge !== undefined) return judge;
  console.error(`judges: ${JSON.stringify(name)} is not one of ${all.join(', ')}`);
  process.exit(2);
}

for (const judge of wanted) {
  const { version } = JUDGES[judge];
  const onProgress = (line: string) => console.log(line);
  const folder = isList ? judgeAtHand(judge) : await builtJudge(judge, { onProgress });
  if (folder !== undefined || isList) console.log(`${judge}  ${version}  ${folder ?? 'not built'}`);
  else if (await hasGo()) process.exitCode = 1;
}
