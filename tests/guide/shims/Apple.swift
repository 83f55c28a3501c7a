// Declarations of the parts of Apple's frameworks that the guide uses and Linux lacks, written from
// Apple's documentation, so that the compiler can check the guide's calls. None of them runs.
import Foundation
import FoundationNetworking

public let NSURLSessionDownloadTaskResumeData = "NSURLSessionDownloadTaskResumeData"
public let NSURLSessionUploadTaskResumeData = "NSURLSessionUploadTaskResumeData"

extension URLSessionConfiguration {
    public class func background(withIdentifier identifier: String) -> URLSessionConfiguration { fatalError() }
    public var sessionSendsLaunchEvents: Bool { get { fatalError() } set {} }
    public var allowsExpensiveNetworkAccess: Bool { get { fatalError() } set {} }
}
extension URLSession {
    public var allTasks: [URLSessionTask] { get async { fatalError() } }
    public func uploadTask(withResumeData data: Data) -> URLSessionUploadTask { fatalError() }
}
extension NSSortDescriptor {
    public convenience init(key: String?, ascending: Bool) { fatalError() }
}
extension FileManager {
    public func containerURL(forSecurityApplicationGroupIdentifier identifier: String) -> URL? { fatalError() }
}

// UIKit
@MainActor public class UIApplication {
    public struct LaunchOptionsKey: Hashable, Sendable {}
}
@MainActor public protocol UIApplicationDelegate {
    func application(_ application: UIApplication, didFinishLaunchingWithOptions options: [UIApplication.LaunchOptionsKey: Any]?) -> Bool
    func application(_ application: UIApplication, handleEventsForBackgroundURLSession identifier: String, completionHandler: @escaping () -> Void)
}

// ExtensionFoundation, UniformTypeIdentifiers
public protocol AppExtension { init() }
extension AppExtension { public static func main() throws {} }
public struct UTType { public var preferredMIMEType: String? }

// Photos
public class PHObject { public var localIdentifier: String { fatalError() } }
public class PHFetchOptions: NSObject { public var sortDescriptors: [NSSortDescriptor]? }
public class PHFetchResult<ObjectType: AnyObject> {
    public var count: Int { fatalError() }
    public func object(at index: Int) -> ObjectType { fatalError() }
}
public final class PHAsset: PHObject {
    public class func fetchAssets(with options: PHFetchOptions?) -> PHFetchResult<PHAsset> { fatalError() }
}
public final class PHAssetResource: @unchecked Sendable {
    public var assetLocalIdentifier: String { fatalError() }
    public var originalFilename: String { fatalError() }
    public var contentType: UTType { fatalError() }
    public class func assetResources(for asset: PHAsset) -> [PHAssetResource] { fatalError() }
    public class func assetResource(forUploadJob job: PHAssetResourceUploadJob) -> PHAssetResource? { fatalError() }
}
public final class PHAssetResourceUploadJob: PHObject, @unchecked Sendable {
    public enum Action { case acknowledge, retry, process }
    public enum State { case registered, pending, failed, succeeded, cancelled }
    public class var jobLimit: Int { fatalError() }
    public var state: State { fatalError() }
    public var error: (any Error)? { fatalError() }
    public var responseHeaderFields: [String: String]? { fatalError() }
    public class func fetchJobs(action: Action, options: PHFetchOptions?) -> PHFetchResult<PHAssetResourceUploadJob> { fatalError() }
}
public final class PHAssetResourceUploadJobChangeRequest {
    public class func createJob(destination: URLRequest, resource: PHAssetResource) {}
    public init?(for job: PHAssetResourceUploadJob) {}
    public func acknowledge() {}
    public func retry(destination: URLRequest?) {}
}
public struct PHPhotosError: Error {
    public enum Code { case limitExceeded }
    public let code: Code
    public static var limitExceeded: Code { .limitExceeded }
}
public func ~= (code: PHPhotosError.Code, error: any Error) -> Bool { (error as? PHPhotosError)?.code == code }
public final class PHPhotoLibrary: @unchecked Sendable {
    public class func shared() -> PHPhotoLibrary { fatalError() }
    public func performChanges(_ changes: @escaping @Sendable () -> Void) async throws {}
}
public enum PHBackgroundResourceUploadProcessingResult { case failure, processing, completed }
public protocol PHBackgroundResourceUploadJobExtension: AppExtension {
    func processJobs() async -> PHBackgroundResourceUploadProcessingResult
    func willTerminate() async
}

// BackgroundAssets
public enum BAContentRequest { case install, update, periodic }
public class BADownload: NSObject {
    public struct Priority: Sendable { public static let `default` = Priority() }
    public var identifier: String { fatalError() }
}
public final class BAURLDownload: BADownload {
    public init(identifier: String, request: URLRequest, essential: Bool, fileSize: Int, applicationGroupIdentifier: String, priority: Priority) {}
}
public final class BAAppExtensionInfo {}
public protocol BADownloaderExtension: AppExtension {
    func downloads(for request: BAContentRequest, manifestURL: URL, extensionInfo: BAAppExtensionInfo) -> Set<BADownload>
    func backgroundDownload(_ download: BADownload, finishedWithFileURL fileURL: URL)
}
