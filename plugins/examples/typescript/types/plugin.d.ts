/// <reference path="./interfaces/orka-plugin-clock.d.ts" />
/// <reference path="./interfaces/orka-plugin-cluster.d.ts" />
/// <reference path="./interfaces/orka-plugin-console.d.ts" />
/// <reference path="./interfaces/orka-plugin-handoff.d.ts" />
/// <reference path="./interfaces/orka-plugin-params.d.ts" />
/// <reference path="./interfaces/orka-plugin-policy.d.ts" />
/// <reference path="./interfaces/orka-plugin-random.d.ts" />
/// <reference path="./interfaces/orka-plugin-results.d.ts" />
/// <reference path="./interfaces/orka-plugin-secrets.d.ts" />
/// <reference path="./interfaces/orka-plugin-ssh.d.ts" />
/// <reference path="./interfaces/orka-plugin-types.d.ts" />
/// <reference path="./interfaces/orka-plugin-wait.d.ts" />
/// <reference path="./interfaces/orka-plugin-workspace.d.ts" />
declare module 'orka:plugin/plugin@0.1.0' {
  export type * as OrkaPluginClock010 from 'orka:plugin/clock@0.1.0'; // import orka:plugin/clock@0.1.0
  export type * as OrkaPluginCluster010 from 'orka:plugin/cluster@0.1.0'; // import orka:plugin/cluster@0.1.0
  export type * as OrkaPluginConsole010 from 'orka:plugin/console@0.1.0'; // import orka:plugin/console@0.1.0
  export type * as OrkaPluginHandoff010 from 'orka:plugin/handoff@0.1.0'; // import orka:plugin/handoff@0.1.0
  export type * as OrkaPluginParams010 from 'orka:plugin/params@0.1.0'; // import orka:plugin/params@0.1.0
  export type * as OrkaPluginRandom010 from 'orka:plugin/random@0.1.0'; // import orka:plugin/random@0.1.0
  export type * as OrkaPluginResults010 from 'orka:plugin/results@0.1.0'; // import orka:plugin/results@0.1.0
  export type * as OrkaPluginSecrets010 from 'orka:plugin/secrets@0.1.0'; // import orka:plugin/secrets@0.1.0
  export type * as OrkaPluginSsh010 from 'orka:plugin/ssh@0.1.0'; // import orka:plugin/ssh@0.1.0
  export type * as OrkaPluginTypes010 from 'orka:plugin/types@0.1.0'; // import orka:plugin/types@0.1.0
  export type * as OrkaPluginWait010 from 'orka:plugin/wait@0.1.0'; // import orka:plugin/wait@0.1.0
  export type * as OrkaPluginWorkspace010 from 'orka:plugin/workspace@0.1.0'; // import orka:plugin/workspace@0.1.0
  export * as policy from 'orka:plugin/policy@0.1.0'; // export orka:plugin/policy@0.1.0
}
