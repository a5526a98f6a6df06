package dreamcore

// FailureCode names why a generation ended without a game; the codes and
// whether they are worth a retry are fixed by the HTTP contract, apart from
// those that were added later.
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

	// Codes that the first contract does not have.
	FailNoGame      FailureCode = "NO_GAME"        // the agent ended well and the project has no file
	FailDisk        FailureCode = "DISK_FULL"      // of the machine, or it cannot be written to
	FailQuota       FailureCode = "QUOTA_EXCEEDED" // the space of the player's own
	FailSandboxLost FailureCode = "SANDBOX_LOST"   // it ended while the agent worked in it
)

// Exit codes of the CLI with a meaning of their own.
const (
	ExitTimeout    = 124
	ExitKilled     = 137
	ExitTerminated = 143
)

// Failure is the reason a generation ended badly. HasExit tells whether the
// CLI's exit code belongs into the event.
type Failure struct {
	Code     FailureCode
	ExitCode int
	HasExit  bool
	Refused  bool // of FailCLIGeneral: the model refused the prompt itself
	Spent    bool // of FailRateLimit: what the player may use is used up, which no moment's wait ends
}

// ExitFailure returns the failure of a CLI that ended with exitCode.
func ExitFailure(exitCode int) Failure {
	f := Failure{ExitCode: exitCode, HasExit: true, Code: FailCLIUnknown}
	switch exitCode {
	case 1:
		f.Code = FailCLIGeneral
	case ExitTimeout:
		f.Code = FailCLITimeout
	case ExitKilled:
		f.Code = FailCLIKilled
	case ExitTerminated:
		f.Code = FailCLITerminated
	}
	return f
}

// Recoverable tells whether the same request may well succeed later.
func (f Failure) Recoverable() bool {
	switch f.Code {
	case FailCLITimeout, FailCLIKilled, FailCLITerminated, FailNetwork, FailRateLimit, FailAPITimeout,
		FailNoGame, FailDisk, FailSandboxLost:
		return true
	}
	return false
}

// Language is a language of the sentences for players.
type Language string

// The languages there are sentences in.
const (
	English  Language = "en"
	Japanese Language = "ja"
)

// sentences[code] is English, then Japanese: what the person who plays with
// the product reads. They never tell a cause.
var sentences = map[FailureCode][2]string{
	FailCLIGeneral:    {"Something went wrong while making your game. Please try again.", "ゲームの作成中に問題が起きました。もう一度お試しください。"},
	FailCLITimeout:    {"Making your game took too long. Try a simpler request, or try again.", "ゲームの作成に時間がかかりすぎました。もう少しシンプルな内容にするか、もう一度お試しください。"},
	FailCLIKilled:     {"Making your game was stopped because it needed too much memory. Please try again.", "メモリが足りなくなり、ゲームの作成が中断されました。もう一度お試しください。"},
	FailCLITerminated: {"Making your game was interrupted. Please try again.", "ゲームの作成が中断されました。もう一度お試しください。"},
	FailCLIUnknown:    {"An unexpected problem stopped your game. Please contact support if it happens again.", "予期しない問題でゲームを作成できませんでした。繰り返す場合はサポートへご連絡ください。"},
	FailNetwork:       {"The connection to the AI was lost. Please try again in a moment.", "AIとの接続が切れました。少し待ってから、もう一度お試しください。"},
	FailAuth:          {"The service is not set up correctly at the moment. Please contact support.", "サービスの設定に問題があります。サポートへご連絡ください。"},
	FailRateLimit:     {"Many games are being made right now. Please wait a moment and try again.", "ただいま混み合っています。少し待ってから、もう一度お試しください。"},
	FailAPITimeout:    {"The AI took too long to answer. Please try again.", "AIの応答に時間がかかりすぎました。もう一度お試しください。"},
	FailSandbox:       {"The workshop for your game could not be opened. Please contact support if it happens again.", "ゲームの作業環境を準備できませんでした。繰り返す場合はサポートへご連絡ください。"},
	FailNoGame:        {"No game was made this time. Please describe your game in other words and try again.", "今回はゲームが作成されませんでした。別の言葉で内容を伝えて、もう一度お試しください。"},
	FailDisk:          {"The service has no storage left at the moment, so your game could not be made or saved. Please try again later.", "サービスの保存領域がいっぱいのため、ゲームを作成または保存できませんでした。時間をおいてから、もう一度お試しください。"},
	FailQuota:         {"Your game has used up its space. Remove what it does not need, or make it smaller, and try again.", "ゲームの保存容量がいっぱいになりました。不要なものを減らしてから、もう一度お試しください。"},
	FailSandboxLost:   {"The workshop for your game closed before the work was done. Please try again.", "ゲームの作業環境が途中で終了しました。もう一度お試しください。"},
	FailUnknown:       {"Something unexpected happened. Please contact support if it happens again.", "予期しない問題が起きました。繰り返す場合はサポートへご連絡ください。"},
}

// spentSentence is the one of a FailRateLimit that Spent tells more of.
var spentSentence = [2]string{
	"The limit for making games is reached for now. Please try again later.",
	"現在、ゲーム作成の利用上限に達しています。時間をおいてから、もう一度お試しください。",
}

// refusedSentence is the one of a FailCLIGeneral that Refused tells more of.
var refusedSentence = [2]string{
	"The AI did not accept this request. Please change your request a little and try again.",
	"AIがこの内容を受け付けませんでした。内容を少し変えて、もう一度お試しください。",
}

// UserMessage returns the sentence for the player.
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
