"use strict";
// The texts of the page in both languages; functions where a text contains a number or a name.
const STRINGS = {
  en: {
    other: "中文", search: "Search", picture: "By picture", source: "Source", anySource: "all", length: "Length", to: "to",
    seconds: "s", close: "Close", play: "Play", like: "More like this", best: "best frame",
    placeholder: "Describe a clip, in English or Chinese",
    about: (n) => `${n.toLocaleString("en")} clips are indexed. For example:`,
    keys: "Keys: / to type, arrows to move, Enter to play, L for more like this, Esc to close.",
    busy: "Searching …", none: "No clip passes these filters.",
    found: (n, what) => `${n} clips for “${what}”`,
    alike: (n, what) => `${n} clips like ${what}`,
    looks: (n, what) => `${n} clips that look like ${what}`,
    noVideo: "This video is not on this machine, or this browser cannot play it.",
    failed: (why) => `The request failed: ${why}`, offline: "the server does not answer",
    at: (t) => `Play from ${t}`,
  },
  zh: {
    other: "English", search: "搜索", picture: "以图搜索", source: "来源", anySource: "全部", length: "时长", to: "至",
    seconds: "秒", close: "关闭", play: "播放", like: "相似片段", best: "最佳帧",
    placeholder: "用中文或英文描述一个片段",
    about: (n) => `已索引 ${n.toLocaleString("zh")} 个片段。例如：`,
    keys: "按键：/ 输入，方向键移动，回车播放，L 查找相似片段，Esc 关闭。",
    busy: "正在搜索……", none: "没有符合筛选条件的片段。",
    found: (n, what) => `“${what}”：${n} 个片段`,
    alike: (n, what) => `与 ${what} 相似的 ${n} 个片段`,
    looks: (n, what) => `看起来像 ${what} 的 ${n} 个片段`,
    noVideo: "这个视频不在这台机器上，或浏览器无法播放。",
    failed: (why) => `出错了：${why}`, offline: "服务器没有响应",
    at: (t) => `从 ${t} 播放`,
  },
};
