package dreamcore

import "cmp"

// FailureCode is the reason why a generation ended without a game. The HTTP
// contract fixes the codes and whether they are recoverable, except for those
// that were added later.
type FailureCode string

// Failure codes. The first five follow from the exit code of the CLI.
const (
	FailCLIGeneral    FailureCode = "CLI_GENERAL_ERROR"
	FailCLITimeout    FailureCode = "CLI_TIMEOUT"
	FailCLIKilled     FailureCode = "CLI_KILLED"
	FailCLITerminated FailureCode = "CLI_TERMINATED"
	FailCLIUnknown    FailureCode = "CLI_UNKNOWN_ERROR"
	FailNetwork       FailureCode = "NETWORK_ERROR"
	FailAuth          FailureCode = "AUTH_ERROR"
	FailRateLimit     FailureCode = "RATE_LIMIT"
	FailAPITimeout    FailureCode = "API_TIMEOUT"
	FailSandbox       FailureCode = "SANDBOX_ERROR"
	FailUnknown       FailureCode = "UNKNOWN_ERROR"

	// Codes that the original contract does not have.
	FailNoGame      FailureCode = "NO_GAME"        // the agent exited successfully but the project has no file
	FailDisk        FailureCode = "DISK_FULL"      // the host's disk is full or not writable
	FailQuota       FailureCode = "QUOTA_EXCEEDED" // the user's own quota is used up
	FailSandboxLost FailureCode = "SANDBOX_LOST"   // the sandbox ended while the agent was running
	FailGameBroken  FailureCode = "GAME_BROKEN"    // the game was made and does not play, and acceptance is fail
	FailCellLost    FailureCode = "CELL_LOST"      // of a router: the cell has gone away in the middle of a stream; its job goes on there
)

// Exit codes of the CLI that map to a failure code.
const (
	ExitTimeout    = 124
	ExitKilled     = 137
	ExitTerminated = 143
)

// Failure describes why a generation failed. HasExit reports whether the event
// includes the CLI's exit code.
type Failure struct {
	Code     FailureCode
	ExitCode int
	HasExit  bool
	Refused  bool // with FailCLIGeneral: the model refused the prompt itself
	Spent    bool // with FailRateLimit: the player's budget is used up, so a short wait does not help
}

var exitFailures = map[int]FailureCode{
	1: FailCLIGeneral, ExitTimeout: FailCLITimeout, ExitKilled: FailCLIKilled, ExitTerminated: FailCLITerminated,
}

// ExitFailure returns the failure of a CLI that exited with exitCode.
func ExitFailure(exitCode int) Failure {
	return Failure{ExitCode: exitCode, HasExit: true, Code: cmp.Or(exitFailures[exitCode], FailCLIUnknown)}
}

// Recoverable reports whether the same request is likely to succeed later.
func (f Failure) Recoverable() bool {
	switch f.Code {
	case FailCLITimeout, FailCLIKilled, FailCLITerminated, FailNetwork, FailRateLimit, FailAPITimeout,
		FailNoGame, FailDisk, FailSandboxLost, FailGameBroken, FailCellLost:
		return true
	}
	return false
}

// Language is a language of the messages for players.
type Language string

// The supported languages.
const (
	English  Language = "en"
	Japanese Language = "ja"
)

// sentences[code] holds the message for the player, in English and in
// Japanese. It never includes the cause.
var sentences = map[FailureCode][2]string{
	FailCLIGeneral:    {"Something went wrong while making your game. Please try again.", "ゲームの作成中に問題が起きました。もう一度お試しください。"},
	FailCLITimeout:    {"Making your game took too long. Try a simpler request, or try again.", "ゲームの作成に時間がかかりすぎました。もう少しシンプルな内容にするか、もう一度お試しください。"},
	FailCLIKilled:     {"Your game needed too much memory and was stopped. Please try again.", "メモリが足りなくなり、ゲームの作成が中断されました。もう一度お試しください。"},
	FailCLITerminated: {"Work on your game was interrupted. Please try again.", "ゲームの作成が中断されました。もう一度お試しください。"},
	FailCLIUnknown:    {"An unexpected problem stopped your game. Please contact support if it happens again.", "予期しない問題でゲームを作成できませんでした。繰り返す場合はサポートへご連絡ください。"},
	FailNetwork:       {"The connection to the AI was lost. Please try again in a moment.", "AIとの接続が切れました。少し待ってから、もう一度お試しください。"},
	FailAuth:          {"The service is not set up correctly at the moment. Please contact support.", "サービスの設定に問題があります。サポートへご連絡ください。"},
	FailRateLimit:     {"Many games are being made right now. Please wait a moment and try again.", "ただいま混み合っています。少し待ってから、もう一度お試しください。"},
	FailAPITimeout:    {"The AI took too long to answer. Please try again.", "AIの応答に時間がかかりすぎました。もう一度お試しください。"},
	FailSandbox:       {"The workspace for your game could not be opened. Please contact support if it happens again.", "ゲームの作業環境を準備できませんでした。繰り返す場合はサポートへご連絡ください。"},
	FailNoGame:        {"No game was made this time. Please describe your game in other words and try again.", "今回はゲームが作成されませんでした。別の言葉で内容を伝えて、もう一度お試しください。"},
	FailDisk:          {"The service has no storage left at the moment, so your game could not be made or saved. Please try again later.", "サービスの保存領域がいっぱいのため、ゲームを作成または保存できませんでした。時間をおいてから、もう一度お試しください。"},
	FailQuota:         {"Your game has used up its space. Remove what it does not need, or make it smaller, and try again.", "ゲームの保存容量がいっぱいになりました。不要なものを減らしてから、もう一度お試しください。"},
	FailSandboxLost:   {"The workspace for your game closed before the work was done. Please try again.", "ゲームの作業環境が途中で終了しました。もう一度お試しください。"},
	FailGameBroken:    {"Your game was made but does not play well yet. Describe what to change, or try again.", "ゲームは作成されましたが、まだうまく動きません。直したい点を伝えるか、もう一度お試しください。"},
	FailCellLost:      {"The connection to your game was lost. It is still being made: reload in a moment.", "ゲームとの接続が切れました。作成は続いています。少し待ってから再読み込みしてください。"},
	FailUnknown:       {"Something unexpected happened. Please contact support if it happens again.", "予期しない問題が起きました。繰り返す場合はサポートへご連絡ください。"},
}

// blockedSentence is for a player whom the operator has blocked.
var blockedSentence = [2]string{
	"This account cannot make games. Please contact support.",
	"このアカウントではゲームを作成できません。サポートへご連絡ください。",
}

// BlockedMessage returns the message for a player whom the operator has blocked.
func BlockedMessage(lang Language) string {
	if lang == Japanese {
		return blockedSentence[1]
	}
	return blockedSentence[0]
}

// spentSentence replaces the message of FailRateLimit if Spent is set.
var spentSentence = [2]string{
	"The limit for making games is reached for now. Please try again later.",
	"現在、ゲーム作成の利用上限に達しています。時間をおいてから、もう一度お試しください。",
}

// refusedSentence replaces the message of FailCLIGeneral if Refused is set.
var refusedSentence = [2]string{
	"The AI did not accept this request. Please change your request a little and try again.",
	"AIがこの内容を受け付けませんでした。内容を少し変えて、もう一度お試しください。",
}

// UserMessage returns the message for the player.
func (f Failure) UserMessage(lang Language) string {
	s, ok := sentences[f.Code]
	if !ok {
		s = sentences[FailUnknown]
	}
	if f.Code == FailRateLimit && f.Spent {
		s = spentSentence
	}
	if f.Code == FailCLIGeneral && f.Refused {
		s = refusedSentence
	}
	if lang == Japanese {
		return s[1]
	}
	return s[0]
}
